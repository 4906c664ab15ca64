"""Choose how strongly to control: on validation prompts, never on those that results are reported for.

The grid of step sizes is decoded; among those that keep diversity and coherence, the one with the highest
mean reward is taken (RE-Control chooses by all three, arXiv:2406.05954, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rebend import stats
from rebend.coherence import dialogue_text
from rebend.config.blocks import ControlBlock
from rebend.controls import NoControl, ValueAscent
from rebend.decoding import control_decode
from rebend.diversity import diversity
from rebend.errors import ConfigError, DataError
from rebend.models import Policy
from rebend.parts import Parts
from rebend.values import ValueNetwork

Coherence = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


class Scorer(Protocol):
    """What is asked of a reward model (`rebend.rewards.RewardModel`)."""

    def score(self, messages: Sequence[Any], responses: Sequence[str]) -> Sequence[float | None]:
        """Return one reward per response; None or NaN where there is none."""
        ...


def choose_strength(
    policy: Policy,
    network: ValueNetwork,
    rows: Sequence[dict[str, Any]],
    block: ControlBlock,
    reward: Scorer,
    coherence: Coherence,
    parts: Parts,
) -> dict[str, Any]:
    """Return `step_size`, `reason` and `table`: one line per step size, the uncontrolled one (0) first.

    Finished step sizes are kept in `parts`. If none of the grid passes, the step size is 0: no control.
    """
    choice, n_steps = block.choice, block.n_steps
    if choice is None or n_steps is None:
        raise ConfigError("a strength is chosen for a control with `n_steps` and `choice`")

    found: list[list[dict[str, Any]]] = []

    def line(alpha: float) -> dict[str, Any]:
        control = ValueAscent(network, alpha, n_steps) if alpha else NoControl()
        name = f"step-size-{alpha:g}"
        responses, notes = control_decode(policy, rows, block.decoding, control, parts.within(name))
        found.append(responses.to_pylist())
        return parts.once(name, lambda: {"step_size": alpha, **measure(rows, found[-1], reward), **notes})

    lines = [line(alpha) for alpha in [0.0, *sorted({float(alpha) for alpha in choice.grid} - {0.0})]]
    cosines = parts.once("coherence", lambda: mean_coherence(rows, found, coherence))
    table = [{**line, "coherence": cosine} for line, cosine in zip(lines, cosines, strict=True)]
    chosen, reason = pick(table, choice.min_diversity)
    return {
        "step_size": chosen,
        "reason": reason,
        "n_steps": n_steps,
        "min_diversity": choice.min_diversity,
        "table": table,
    }


def mean_coherence(
    rows: Sequence[dict[str, Any]], found: Sequence[Sequence[dict[str, Any]]], coherence: Coherence
) -> list[float]:
    """Return the mean coherence of each set of responses; asked for all at once, so that no text is encoded twice."""
    pairs = [(row, one["response"]) for responses in found for row, one in zip(rows, responses, strict=True)]
    there = [response is not None for _, response in pairs]
    kept = [(dialogue_text(row["messages"]), response) for row, response in pairs if response is not None]
    cosines = np.full(len(pairs), np.nan)
    cosines[there] = coherence([prompt for prompt, _ in kept], [response for _, response in kept])
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
    rewards = stats.mean(reward.score(prompts, texts))
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


def pick(table: Sequence[dict[str, Any]], share: float) -> tuple[float, str]:
    """Return the step size with the highest mean reward among those that keep the text, and the reason.

    `table` begins with the uncontrolled line. Diversity and coherence must each stay at `share` of its.
    """
    base, *tried = table
    passing = [
        line
        for line in tried
        if line["reward"] is not None
        and line["diversity"] >= share * base["diversity"]
        and line["coherence"] >= _floor(base["coherence"], share)
    ]
    if not passing:
        return 0.0, (
            f"none of {len(tried)} step sizes keeps diversity and coherence at {share:g} of the uncontrolled ones "
            f"({base['diversity']:.3f}, {base['coherence']:.3f}): no control"
        )
    best = max(passing, key=lambda line: (line["reward"], -line["step_size"]))
    return best["step_size"], (
        f"highest mean reward ({best['reward']:.3f}, uncontrolled {_shown(base['reward'])}) among the "
        f"{len(passing)} of {len(tried)} step sizes that keep diversity and coherence at {share:g} of the "
        "uncontrolled ones"
    )


def _floor(value: float, share: float) -> float:
    """The least coherence allowed; a cosine may be negative, where a share of it would be no floor."""
    return value - (1 - share) * abs(value)


def _shown(value: float | None) -> str:
    return "not scored" if value is None else f"{value:.3f}"
