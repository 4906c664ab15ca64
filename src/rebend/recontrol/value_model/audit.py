"""What a value network knows, before anybody decodes with it: looked at on responses that were held out.

Four questions. Does V order responses by the reward that they end with, and from which place in the response on?
Is V as large as the reward? By how much do neighbours disagree (TD residual)? Does V move along a response at all,
or only tell prompts apart? A network that fails the first in the last third of the responses, where it is easiest,
is called useless: its gradient is noise.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from rebend.evaluation.intervals import LEVEL
from rebend.io.files import write_json, write_parquet
from rebend.recontrol.value_model.examples import LOOKED_AT, ValueData
from rebend.recontrol.value_model.loss import packed
from rebend.recontrol.value_model.network import ValueNetwork

AUDIT_FILE = "audit.json"
CURVE_FILE = "audit.parquet"
CURVE = pa.schema(
    [
        ("place", pa.float64()),  # in the response: 0 is its first token, 1 its last
        ("rank", pa.float64()),  # Spearman correlation of V there with the reward; null if undefined
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("residual", pa.float64()),  # root mean square of V(next) − V there; at the last token, of r − V
        ("value", pa.float64()),  # mean V
    ]
)
THIRDS = ("first", "middle", "last")
_PLACES = 21
_BINS = 10


@dataclass(frozen=True)
class Audit:
    """Answers to the four questions; `useful` is the verdict, with its `reason`."""

    useful: bool
    reason: str
    facts: dict[str, Any]
    curve: list[dict[str, float | None]] = field(repr=False)


@dataclass(frozen=True)
class _Lines:
    """What is kept of each of N responses."""

    rewards: np.ndarray  # [N]
    values: np.ndarray  # [N, P] at P places along the response
    residuals: np.ndarray  # [N, P]
    between: np.ndarray  # [N] mean square of V(next) − V; NaN for a single token
    thirds: np.ndarray  # [N, 3] mean V of each third of the tokens
    spread: np.ndarray  # [N] standard deviation of V along the response
    mean: np.ndarray  # [N] mean V
    last: np.ndarray  # [N] V at the last token


def audit(network: ValueNetwork, data: ValueData, batch_size: int) -> Audit:
    """Look at up to 5,000 held-out responses, drawn by prompt from all of them (`value_data.split_by_prompt`).

    Intervals count prompts, not responses: samples of one go together.
    """
    lines = _read(network, data, batch_size)
    n = data.prompts_looked_at
    thirds = {name: rank(lines.thirds[:, i], lines.rewards, n) for i, name in enumerate(THIRDS)}
    between = float(lines.mean.std())
    within = float(np.sqrt(np.mean(lines.spread**2)))
    useful, reason = _verdict(thirds["last"], n)
    facts = {
        "useful": useful,
        "reason": reason,
        "responses": len(lines.rewards),
        "prompts": n,
        "rank": thirds,
        "calibration": calibration(lines.last, lines.rewards),
        "residual": {
            "between_tokens": float(np.sqrt(np.nanmean(lines.between))) if np.isfinite(lines.between).any() else None,
            "at_the_end": float(np.sqrt(np.mean((lines.rewards - lines.last) ** 2))),
            "reward_deviation": float(lines.rewards.std()),
        },
        "variation": {
            "along_a_response": within,
            "between_responses": between,
            "share_along": within**2 / (within**2 + between**2) if within or between else None,
        },
    }
    places = np.linspace(0, 1, _PLACES)
    curve = [
        {
            "place": float(place),
            **_curve_rank(rank(lines.values[:, i], lines.rewards, n)),
            "residual": float(np.sqrt(np.mean(lines.residuals[:, i] ** 2))),
            "value": float(lines.values[:, i].mean()),
        }
        for i, place in enumerate(places)
    ]
    return Audit(useful, reason, facts, curve)


def write_audit(folder: Path, found: Audit) -> None:
    """Write `audit.json` and `audit.parquet`; a useless network is said so on standard error."""
    write_json(folder / AUDIT_FILE, found.facts)
    write_parquet(folder / CURVE_FILE, pa.Table.from_pylist(found.curve, CURVE))
    if not found.useful:
        print(f"WARNING: the value network is useless for control: {found.reason}", file=sys.stderr, flush=True)


def rank(values: np.ndarray, rewards: np.ndarray, n: int) -> dict[str, float | None]:
    """Return Spearman's correlation with its 95 % interval for `n` independent prompts; None where undefined.

    The interval is Fisher's with the variance of Bonett and Wright (Psychometrika 2000, 65(1), 23).
    """
    nothing: dict[str, float | None] = {"estimate": None, "ci_low": None, "ci_high": None}
    if len(values) < 3 or np.ptp(values) == 0 or np.ptp(rewards) == 0:
        return nothing
    found = float(stats.spearmanr(values, rewards).statistic)
    if n < 4:
        return {**nothing, "estimate": found}
    error = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + found**2 / 2) / (n - 3))
    middle = np.arctanh(np.clip(found, -1 + 1e-12, 1 - 1e-12))
    return {"estimate": found, "ci_low": float(np.tanh(middle - error)), "ci_high": float(np.tanh(middle + error))}


def calibration(predicted: np.ndarray, actual: np.ndarray) -> list[dict[str, float]]:
    """Return mean V at the last token and mean reward in up to ten bins of equally many responses, by V."""
    bins = np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(predicted)))
    return [
        {"n": len(own), "predicted": float(predicted[own].mean()), "actual": float(actual[own].mean())} for own in bins
    ]


def _verdict(last: dict[str, float | None], n: int) -> tuple[bool, str]:
    where = f"in the last third of held-out responses to {n} prompts"
    if last["estimate"] is None:
        return False, f"V, or the reward, is the same for all responses {where}"
    if last["ci_low"] is None:
        return False, f"{n} held-out prompts are too few to tell"
    interval = f"{last['estimate']:.2f} [{last['ci_low']:.2f}, {last['ci_high']:.2f}]"
    if last["ci_low"] <= 0:
        return (
            False,
            f"the rank correlation of V with the reward {where} is {interval}, not above 0 beyond its interval",
        )
    return True, f"the rank correlation of V with the reward {where} is {interval}"


@torch.no_grad()
def _read(network: ValueNetwork, data: ValueData, batch_size: int) -> _Lines:
    """Send the responses that are looked at through the network, and keep of each what is asked about it."""
    kept: list[tuple[np.ndarray, ...]] = []
    for batch in data.batches(LOOKED_AT, batch_size):
        for states, reward in batch:
            values, _, _ = packed([(states, reward)], network)
            kept.append(_of_one(network(values).double().cpu().numpy(), reward))
    return _Lines(*(np.array(column) for column in zip(*kept, strict=True)))


def _of_one(values: np.ndarray, reward: float) -> tuple[Any, ...]:
    """Return the row of `_Lines` of one response with V [T]."""
    n = len(values)
    places = np.round(np.linspace(0, n - 1, _PLACES)).astype(int)
    residuals = np.append(values[1:], reward) - values
    between = np.mean(residuals[:-1] ** 2) if n > 1 else np.nan
    thirds = [values[n * i // 3 : max(n * (i + 1) // 3, n * i // 3 + 1)].mean() for i in range(3)]
    return reward, values[places], residuals[places], between, thirds, values.std(), values.mean(), values[-1]


def _curve_rank(found: dict[str, float | None]) -> dict[str, float | None]:
    return {"rank": found["estimate"], "ci_low": found["ci_low"], "ci_high": found["ci_high"]}
