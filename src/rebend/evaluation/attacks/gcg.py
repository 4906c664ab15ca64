"""Greedy coordinate gradient (arXiv:2307.15043): search for a suffix of real tokens that makes a target likelier.

The library nanogcg searches, one prompt at a time; it is imported only when a search runs. The suffix is directly after
the user's text, and is tokenised again together with the prompt for decoding. The library's cache of the prompt is off,
because it was written for an older version of transformers; it does not change results.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch

from rebend.config.safety import GcgBlock
from rebend.errors import ConfigError
from rebend.evaluation.attacks.attempts import (
    AttackResult,
    AttackSetup,
    PromptRow,
    answer_prompts,
    attempt_key,
    harmful_rows,
    target_of,
)
from rebend.evaluation.attacks.frozen_weights import frozen_weights
from rebend.generation.requests import has_room, make_requests
from rebend.generation.sampling import row_seed
from rebend.io.progress import progress
from rebend.models.chat import Message
from rebend.models.loading import Policy

_SLOT = "{optim_str}"  # nanogcg's placeholder for the suffix


def attack(rows: Sequence[PromptRow], settings: GcgBlock, setup: AttackSetup) -> AttackResult:
    """Decode responses to each harmful prompt with the suffix of each attempt. Raises `ConfigError` without nanogcg."""
    harmful = harmful_rows(rows)
    prompts, notes = search_prompts(harmful, settings, setup)
    return answer_prompts(setup, harmful, prompts, notes=notes)


def search_prompts(
    rows: Sequence[PromptRow], settings: GcgBlock, setup: AttackSetup
) -> tuple[list[list[list[Message]]], dict[str, Any]]:
    """Return each prompt with its best suffix, one per attempt, and the mean final loss.

    Attempts differ by the seed of the search. A prompt that exceeds the context keeps the initial suffix. Finished
    searches are kept in the setup's `parts`. Raises `ConfigError` without nanogcg.
    """
    if importlib.util.find_spec(GcgBlock.package) is None:
        raise ConfigError(GcgBlock.missing)
    policy, control, parts = setup.policy, setup.control, setup.parts.within("search")
    prompts = [[with_suffix(row["messages"], settings.suffix)] * settings.attempts for row in rows]
    requests = make_requests(policy, [of_row[0] for of_row in prompts], control=control)
    fitting = [i for i, request in enumerate(requests) if has_room(policy, request, setup.decoding)]
    jobs = [(i, attempt) for i in fitting for attempt in range(settings.attempts)]
    losses: list[float] = []
    for i, attempt in progress(jobs, "searching", total=len(jobs)):

        def make(row: PromptRow = rows[i], attempt: int = attempt) -> dict[str, Any]:
            messages = control.messages(with_suffix(row["messages"], _SLOT))
            return _search(policy, messages, target_of(row, settings.target), settings, attempt_key(row, attempt))

        best = parts.get_or_make(f"prompt-{i:05d}-attempt-{attempt:03d}", make)
        prompts[i][attempt] = with_suffix(rows[i]["messages"], best["suffix"])
        losses.append(best["loss"])
    return prompts, {"loss_at_end": fmean(losses)} if losses else {}


def with_suffix(messages: Sequence[Message], suffix: str) -> list[Message]:
    """Return the messages with `suffix` directly after the user's last text."""
    *before, last = messages
    return [*before, {**last, "content": last["content"] + suffix}]


def _search(policy: Policy, messages: list[Message], target: str, settings: GcgBlock, key: str) -> dict[str, Any]:
    """Return the best suffix and its loss (mean over the target's tokens)."""
    import nanogcg

    config = nanogcg.GCGConfig(
        num_steps=settings.steps,
        optim_str_init=settings.suffix,
        search_width=settings.search_width,
        topk=settings.top_k,
        early_stop=settings.early_stop,
        use_prefix_cache=False,
        seed=row_seed(settings.seed, key) % 2**32,  # numpy is seeded too, and takes at most 32 bits
        verbosity="ERROR",
    )
    with _process_state_restored(), frozen_weights(policy.model):
        result = nanogcg.run(policy.model, policy.tokenizer, messages, target, config)
    return {"suffix": result.best_string, "loss": result.best_loss}


@contextmanager
def _process_state_restored() -> Iterator[None]:
    """Restore the global state that nanogcg changes: torch's random state and its choice of algorithms.

    nanogcg also collects garbage at every step, which takes longer than the step if there are many objects; existing
    objects are therefore excluded from collection inside the block.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    gc.freeze()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        gc.unfreeze()
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
