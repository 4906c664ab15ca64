"""Greedy coordinate gradient (arXiv:2307.15043): a suffix of real tokens that makes a target likelier.

The search is that of the library nanogcg, which is imported only here and only when it is used. It looks for
one prompt at a time; the suffix stands directly after the user's text, and goes through the tokenizer again
with the prompt when it is answered. Its cache of the prompt is not used: it was written for an older
transformers, and changes no result.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch

from rebend.config.decoding import Decoding
from rebend.config.safety import GcgBlock
from rebend.errors import ConfigError
from rebend.evaluation.attacks.attempts import Row, aim, attempt_key
from rebend.evaluation.attacks.soft_tokens import frozen
from rebend.generation.generate import has_room, make_requests
from rebend.generation.intervention import Control
from rebend.generation.sampling import row_seed
from rebend.io.chunks import ChunkStore
from rebend.io.progress import progress
from rebend.models.chat import Message
from rebend.models.loading import Policy

_SLOT = "{optim_str}"  # nanogcg's own mark for the place of the suffix


def gcg_prompts(
    policy: Policy, rows: Sequence[Row], settings: GcgBlock, decoding: Decoding, control: Control, parts: ChunkStore
) -> tuple[list[list[list[Message]]], dict[str, Any]]:
    """Return each prompt with the suffixes found for it, one per attempt, and what the record says of the losses.

    Attempts differ by the seed of the search. A prompt that has no room in the context keeps the suffix that
    the search would start from. Finished searches are kept in `parts`. Raises `ConfigError` without nanogcg.
    """
    if importlib.util.find_spec(GcgBlock.package) is None:
        raise ConfigError(GcgBlock.missing)
    first = [[with_suffix(row["messages"], settings.suffix)] * settings.attempts for row in rows]
    requests = make_requests(policy, [prompts[0] for prompts in first], control=control)
    jobs = [(i, k) for i, r in enumerate(requests) if has_room(policy, r, decoding) for k in range(settings.attempts)]
    losses: list[float] = []
    for i, k in progress(jobs, "searching", total=len(jobs)):

        def make(row: Row = rows[i], attempt: int = k) -> dict[str, Any]:
            messages = control.messages(with_suffix(row["messages"], _SLOT))
            return _search(policy, messages, aim(row, settings.target), settings, attempt_key(row, attempt))

        made = parts.get_or_make(f"prompt-{i:05d}-try-{k:03d}", make)
        first[i][k] = with_suffix(rows[i]["messages"], made["suffix"])
        losses.append(made["loss"])
    return first, {"loss_at_end": fmean(losses)} if losses else {}


def with_suffix(messages: Sequence[Message], suffix: str) -> list[Message]:
    """Return the messages with `suffix` directly after the user's last text."""
    *before, last = messages
    return [*before, {**last, "content": last["content"] + suffix}]


def _search(policy: Policy, messages: list[Message], target: str, settings: GcgBlock, key: str) -> dict[str, Any]:
    """Return the best suffix and its loss (mean over the target's tokens)."""
    import nanogcg

    found_by = nanogcg.GCGConfig(
        num_steps=settings.steps,
        optim_str_init=settings.suffix,
        search_width=settings.search_width,
        topk=settings.top_k,
        early_stop=settings.early_stop,
        use_prefix_cache=False,
        seed=row_seed(settings.seed, key) % 2**32,  # numpy is seeded too, and takes no more
        verbosity="ERROR",
    )
    with _undisturbed(), frozen(policy.model):
        found = nanogcg.run(policy.model, policy.tokenizer, messages, target, found_by)
    return {"suffix": found.best_string, "loss": found.best_loss}


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the library's habits from the rest of the process.

    It sets torch's random state and choice of algorithms for good, and collects garbage at every step, which
    takes longer than the step where many objects live: those that are there already are left out of it.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    gc.freeze()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        gc.unfreeze()
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
