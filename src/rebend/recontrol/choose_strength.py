"""Choose the strength of a control on validation prompts, never on the prompts that results are reported for.

Every strength of a grid is decoded: step sizes (with numbers of steps) or weights. RE-Control takes the strength with
the highest sum of coherence, diversity and mean reward (arXiv:2406.05954, appendix: `objective: published`). A reward
is a raw logit and the other two are at most 1, so the reward decides this sum and broken text can win. `guarded` takes
the highest mean reward among the strengths that keep coherence and diversity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np

from rebend.config.controls import Choice, ControlBlock, TunedBlock
from rebend.errors import ConfigError, DataError
from rebend.evaluation import intervals
from rebend.evaluation.diversity import diversity
from rebend.evaluation.reward_scores import cut_text
from rebend.io.chunks import ChunkStore
from rebend.models.loading import Policy
from rebend.recontrol.decode import control_block, decode_under, make_control
from rebend.recontrol.resources import ControlResources

Coherence = Callable[[Sequence[str], Sequence[str]], Sequence[float]]  # (row ids, responses) -> one cosine each


class RewardScorer(Protocol):
    """The part of a reward model (`rebend.models.rewards.model.Reward`) that choosing a strength needs."""

    def score(self, messages: Sequence[Any], responses: Sequence[str]) -> Sequence[float | None]:
        """Return one reward per response; None or NaN for a response without a reward."""
        ...


def choose_strength(
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    block: TunedBlock,
    resources: ControlResources,
    reward: RewardScorer,
    coherence: Coherence,
    parts: ChunkStore,
) -> dict[str, Any]:
    """Return `step_size`, `n_steps`, `reason` and `table`: one line per strength, strength 0 (no control) first.

    `step_size` is the value of the block's strength key, e.g. `weight`; `n_steps` is None for controls without steps.
    Finished strengths are stored in `parts`. The objective `guarded` chooses strength 0 if no strength keeps diversity
    and coherence, or if none of these has a higher mean reward than no control.

    Raises `ConfigError` if the block has no `choice` or a resource is missing, and `DataError` if no prompt has a
    response.
    """
    choice = block.choice
    if choice is None:
        raise ConfigError("a strength is chosen for a control with `choice`")
    strengths = strengths_of(block, choice)
    make_control(_at_strength(block, *strengths[-1]), resources)  # a missing resource fails before the first decoding
    responses_of: list[list[dict[str, Any]]] = []

    def measured_now(responses: list[dict[str, Any]]) -> dict[str, Any]:
        return measure(rows, responses, reward, block.reward_stop)

    def measured(alpha: float, n_steps: int | None) -> dict[str, Any]:
        name = f"step-size-{alpha:g}" + (f"-steps-{n_steps}" if choice.steps and alpha else "")
        table, notes = decode_under(policy, rows, _at_strength(block, alpha, n_steps), resources, parts.within(name))
        responses_of.append(table.to_pylist())
        strength = {"step_size": alpha, "n_steps": n_steps}
        return parts.get_or_make(name, lambda: {**strength, **measured_now(responses_of[-1]), **notes})

    lines = [measured(alpha, n_steps) for alpha, n_steps in strengths]
    cosines = parts.get_or_make("coherence", lambda: mean_coherence(rows, responses_of, coherence))
    table = [{**line, "coherence": cosine} for line, cosine in zip(lines, cosines, strict=True)]
    return _decision(block, choice, table)


def _decision(block: TunedBlock, choice: Choice, table: list[dict[str, Any]]) -> dict[str, Any]:
    chosen, reason = pick(table, choice)
    return {
        "step_size": chosen["step_size"],
        "n_steps": chosen["n_steps"],
        "strength": block.strength,
        "reason": reason,
        "objective": choice.objective,
        "min_diversity": choice.min_diversity,
        "table": table,
    }


def _at_strength(block: TunedBlock, alpha: float, n_steps: int | None) -> ControlBlock:
    return control_block(block.model_dump(), {"step_size": alpha, "n_steps": n_steps})


def strengths_of(block: TunedBlock, choice: Choice) -> list[tuple[float, int | None]]:
    """Return all pairs (step size, number of steps) of the grid: 0 first, then sorted by number of steps and size."""
    fixed = getattr(block, "n_steps", None)
    steps: list[int | None] = [*sorted(set(choice.steps))] or [fixed]
    sizes = sorted({float(alpha) for alpha in choice.grid} - {0.0})
    return [(0.0, steps[0]), *((alpha, n_steps) for n_steps, alpha in product(steps, sizes))]


def mean_coherence(
    rows: Sequence[dict[str, Any]], responses_of: Sequence[Sequence[dict[str, Any]]], coherence: Coherence
) -> list[float]:
    """Return the mean coherence of each set of responses, from one call for all sets, so that no text is encoded twice.

    Prompts without a response do not count.
    """
    pairs = [(row, line["response"]) for responses in responses_of for row, line in zip(rows, responses, strict=True)]
    has_response = [response is not None for _, response in pairs]
    answered = [(row["row_id"], response) for row, response in pairs if response is not None]
    cosines = np.full(len(pairs), np.nan)
    cosines[has_response] = coherence([row_id for row_id, _ in answered], [response for _, response in answered])
    return [float(mean) for mean in np.nanmean(cosines.reshape(len(responses_of), -1), axis=1)]


def measure(
    rows: Sequence[dict[str, Any]],
    responses: Sequence[dict[str, Any]],
    reward: RewardScorer,
    stop: Sequence[str] = (),
) -> dict[str, Any]:
    """Return means over the prompts with a response; the mean reward also with its 95 % interval.

    For the reward alone, texts are cut before the first of the texts `stop`.

    Raises `DataError` if no prompt has a response.
    """
    pairs = [(row["messages"], line) for row, line in zip(rows, responses, strict=True) if line["response"] is not None]
    if not pairs:
        raise DataError(f"none of the {len(rows)} validation prompts has a response: they leave no room in the context")
    texts = [line["response"] for _, line in pairs]
    rewards = intervals.mean(reward.score([messages for messages, _ in pairs], [str(cut_text(t, stop)) for t in texts]))
    return {
        "reward": rewards.estimate,
        "reward_ci_low": rewards.ci_low,
        "reward_ci_high": rewards.ci_high,
        "n": rewards.n,
        "not_scored": rewards.not_scored + len(rows) - len(pairs),
        "diversity": float(np.mean([diversity(text) for text in texts])),
        "edit_norm": float(np.mean([line["edit_norm"] for _, line in pairs])),
        "length_rate": float(np.mean([line["finish"] == "length" for _, line in pairs])),
        "tokens_per_response": float(np.mean([line["n_tokens"] for _, line in pairs])),
    }


def pick(table: Sequence[dict[str, Any]], choice: Choice) -> tuple[dict[str, Any], str]:
    """Return the line of the chosen strength, and the reason. The first line of `table` is strength 0."""
    return (_published if choice.objective == "published" else _guarded)(table, choice.min_diversity)


def _guarded(table: Sequence[dict[str, Any]], share: float) -> tuple[dict[str, Any], str]:
    """Pick the highest mean reward among strengths with at least `share` of uncontrolled diversity and coherence."""
    base, *controlled = table
    passing = [line for line in controlled if line["reward"] is not None and _keeps_text(line, base, share)]
    if not passing:
        return base, (
            f"none of {len(controlled)} strengths keeps diversity and coherence at {share:g} of the uncontrolled ones "
            f"({base['diversity']:.3f}, {base['coherence']:.3f}): no control"
        )
    best = max(passing, key=lambda line: (line["reward"], *_weakest(line)))
    if base["reward"] is not None and best["reward"] <= base["reward"]:
        return base, (
            f"of the {len(passing)} of {len(controlled)} strengths that keep diversity and coherence at {share:g} of "
            f"the uncontrolled ones none has a higher mean reward ({best['reward']:.3f}, uncontrolled "
            f"{base['reward']:.3f}): no control"
        )
    return best, (
        f"highest mean reward ({best['reward']:.3f}, uncontrolled {_number_text(base['reward'])}) among the "
        f"{len(passing)} of {len(controlled)} strengths that keep diversity and coherence at {share:g} of the "
        "uncontrolled ones"
    )


def _keeps_text(line: dict[str, Any], base: dict[str, Any], share: float) -> bool:
    keeps_diversity = line["diversity"] >= share * base["diversity"]
    return bool(keeps_diversity and line["coherence"] >= _floor(base["coherence"], share))


def _published(table: Sequence[dict[str, Any]], share: float) -> tuple[dict[str, Any], str]:
    """Pick the highest unweighted sum of coherence, diversity and mean reward; `share` is not used."""
    base, *controlled = table
    scored = [line for line in controlled if line["reward"] is not None]
    if not scored:
        return base, f"none of {len(controlled)} strengths has a reward: no control"
    best = max(scored, key=lambda line: (_total(line), *_weakest(line)))
    uncontrolled = _number_text(None if base["reward"] is None else _total(base))
    return best, (
        f"highest sum of coherence, diversity and mean reward ({_total(best):.3f}, uncontrolled {uncontrolled}) "
        f"of {len(controlled)} strengths"
    )


def _total(line: dict[str, Any]) -> float:
    return float(line["coherence"] + line["diversity"] + line["reward"])


def _weakest(line: dict[str, Any]) -> tuple[float, int]:
    """Return a sort key that prefers the smaller of equally good strengths."""
    return -line["step_size"], -(line["n_steps"] or 0)


def _floor(value: float, share: float) -> float:
    """Return the least allowed coherence. For a negative cosine, `share` times it would be above it."""
    return value - (1 - share) * abs(value)


def _number_text(value: float | None) -> str:
    return "not scored" if value is None else f"{value:.3f}"
