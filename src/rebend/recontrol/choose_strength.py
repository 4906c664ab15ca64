"""Choose how strongly to control: on validation prompts, never on those that results are reported for.

The grid of step sizes (and numbers of steps) or of weights is decoded. RE-Control takes the strength with the
highest sum of coherence, diversity and mean reward on validation prompts (arXiv:2406.05954, appendix:
`objective: published`). A reward is a raw logit and the other two are at most 1, so that in this sum the reward
decides and broken text can win; `guarded` takes the highest mean reward among strengths that keep both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np

from rebend.config.controls import Choice, TunedBlock, control_block
from rebend.errors import ConfigError, DataError
from rebend.evaluation import intervals
from rebend.evaluation.diversity import diversity
from rebend.io.chunks import ChunkStore
from rebend.models.loading import Policy
from rebend.recontrol.decode import Aids, decode_under

Coherence = Callable[[Sequence[str], Sequence[str]], Sequence[float]]  # of rows' ids and their responses


class Scorer(Protocol):
    """What is asked of a reward model (`rebend.models.rewards.model.RewardModel`)."""

    def score(self, messages: Sequence[Any], responses: Sequence[str]) -> Sequence[float | None]:
        """Return one reward per response; None or NaN where there is none."""
        ...


def choose_strength(
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    block: TunedBlock,
    aids: Aids,
    reward: Scorer,
    coherence: Coherence,
    parts: ChunkStore,
) -> dict[str, Any]:
    """Return `step_size`, `n_steps`, `reason` and `table`: a line per strength, the uncontrolled one (0) first.

    `step_size` is the number for the block's own key of strength, whatever its name; `n_steps` is None for
    controls without steps. Finished strengths are kept in `parts`. If none of a guarded grid passes, or none that
    does has a higher mean reward than no control, the strength is 0: no control.
    """
    choice = block.choice
    if choice is None:
        raise ConfigError("a strength is chosen for a control with `choice`")

    found: list[list[dict[str, Any]]] = []

    def line(alpha: float, n_steps: int | None) -> dict[str, Any]:
        name = f"step-size-{alpha:g}" + (f"-steps-{n_steps}" if choice.steps and alpha else "")
        at_this = control_block(block.model_dump(), {"step_size": alpha, "n_steps": n_steps})
        responses, notes = decode_under(policy, rows, at_this, aids, parts.within(name))
        found.append(responses.to_pylist())
        facts = {"step_size": alpha, "n_steps": n_steps}
        return parts.get_or_make(name, lambda: {**facts, **measure(rows, found[-1], reward), **notes})

    lines = [line(alpha, n_steps) for alpha, n_steps in strengths_of(block, choice)]
    cosines = parts.get_or_make("coherence", lambda: mean_coherence(rows, found, coherence))
    table = [{**line, "coherence": cosine} for line, cosine in zip(lines, cosines, strict=True)]
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


def strengths_of(block: TunedBlock, choice: Choice) -> list[tuple[float, int | None]]:
    """Return every (step size, number of steps) that is tried: 0 first, then by number of steps and by size."""
    fixed = getattr(block, "n_steps", None)
    steps: list[int | None] = [*sorted(set(choice.steps))] or [fixed]
    sizes = sorted({float(alpha) for alpha in choice.grid} - {0.0})
    return [(0.0, steps[0]), *((alpha, n_steps) for n_steps, alpha in product(steps, sizes))]


def mean_coherence(
    rows: Sequence[dict[str, Any]], found: Sequence[Sequence[dict[str, Any]]], coherence: Coherence
) -> list[float]:
    """Return the mean coherence of each set of responses; asked for all at once, so that no text is encoded twice."""
    pairs = [(row, one["response"]) for responses in found for row, one in zip(rows, responses, strict=True)]
    there = [response is not None for _, response in pairs]
    kept = [(row["row_id"], response) for row, response in pairs if response is not None]
    cosines = np.full(len(pairs), np.nan)
    cosines[there] = coherence([row_id for row_id, _ in kept], [response for _, response in kept])
    return [float(mean) for mean in np.nanmean(cosines.reshape(len(found), -1), axis=1)]


def measure(rows: Sequence[dict[str, Any]], responses: Sequence[dict[str, Any]], reward: Scorer) -> dict[str, Any]:
    """Return the means over the responses that are there; reward with its 95 % interval."""
    pairs = [
        (row["messages"], found) for row, found in zip(rows, responses, strict=True) if found["response"] is not None
    ]
    if not pairs:
        raise DataError(f"none of the {len(rows)} validation prompts has a response: they leave no room in the context")
    prompts = [messages for messages, _ in pairs]
    texts = [found["response"] for _, found in pairs]
    rewards = intervals.mean(reward.score(prompts, texts))
    return {
        "reward": rewards.estimate,
        "reward_ci_low": rewards.ci_low,
        "reward_ci_high": rewards.ci_high,
        "n": rewards.n,
        "not_scored": rewards.not_scored + len(rows) - len(pairs),
        "diversity": float(np.mean([diversity(text) for text in texts])),
        "displacement": float(np.mean([found["displacement"] for _, found in pairs])),
        "length_rate": float(np.mean([found["finish"] == "length" for _, found in pairs])),
        "tokens_per_response": float(np.mean([found["n_tokens"] for _, found in pairs])),
    }


def pick(table: Sequence[dict[str, Any]], choice: Choice) -> tuple[dict[str, Any], str]:
    """Return the line of the strength that is taken, and the reason. `table` begins with the uncontrolled line."""
    return (_published if choice.objective == "published" else _guarded)(table, choice.min_diversity)


def _guarded(table: Sequence[dict[str, Any]], share: float) -> tuple[dict[str, Any], str]:
    """The highest mean reward among strengths whose diversity and coherence stay at `share` of the uncontrolled."""
    base, *tried = table
    passing = [
        line
        for line in tried
        if line["reward"] is not None
        and line["diversity"] >= share * base["diversity"]
        and line["coherence"] >= _floor(base["coherence"], share)
    ]
    if not passing:
        return base, (
            f"none of {len(tried)} strengths keeps diversity and coherence at {share:g} of the uncontrolled ones "
            f"({base['diversity']:.3f}, {base['coherence']:.3f}): no control"
        )
    best = max(passing, key=lambda line: (line["reward"], *_weakest(line)))
    if base["reward"] is not None and best["reward"] <= base["reward"]:
        return base, (
            f"of the {len(passing)} of {len(tried)} strengths that keep diversity and coherence at {share:g} of the "
            f"uncontrolled ones none has a higher mean reward ({best['reward']:.3f}, uncontrolled "
            f"{base['reward']:.3f}): no control"
        )
    return best, (
        f"highest mean reward ({best['reward']:.3f}, uncontrolled {_shown(base['reward'])}) among the "
        f"{len(passing)} of {len(tried)} strengths that keep diversity and coherence at {share:g} of the "
        "uncontrolled ones"
    )


def _published(table: Sequence[dict[str, Any]], share: float) -> tuple[dict[str, Any], str]:
    """The highest sum of coherence, diversity and mean reward, as they are; `share` plays no part."""
    base, *tried = table
    scored = [line for line in tried if line["reward"] is not None]
    if not scored:
        return base, f"none of {len(tried)} strengths has a reward: no control"
    best = max(scored, key=lambda line: (_total(line), *_weakest(line)))
    before = "not scored" if base["reward"] is None else f"{_total(base):.3f}"
    return best, (
        f"highest sum of coherence, diversity and mean reward ({_total(best):.3f}, uncontrolled {before}) "
        f"of {len(tried)} strengths"
    )


def _total(line: dict[str, Any]) -> float:
    return float(line["coherence"] + line["diversity"] + line["reward"])


def _weakest(line: dict[str, Any]) -> tuple[float, int]:
    """Of equal strengths the one that does less."""
    return -line["step_size"], -(line["n_steps"] or 0)


def _floor(value: float, share: float) -> float:
    """The least coherence allowed; a cosine may be negative, where a share of it would be no floor."""
    return value - (1 - share) * abs(value)


def _shown(value: float | None) -> str:
    return "not scored" if value is None else f"{value:.3f}"
