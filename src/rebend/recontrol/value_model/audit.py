"""Test a value network on held-out responses, before it is used for decoding.

The audit measures four things: the rank correlation of V with the final reward along the response, the calibration of V
at the last token, the TD residual between adjacent tokens, and how much V varies along a response and between
responses. A network is useless if the rank correlation in the last third of the responses, where prediction is
easiest, is not above 0: its gradient is noise.
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

from rebend.evaluation.clustered import LEVEL
from rebend.io.files import write_json, write_parquet
from rebend.recontrol.value_model.examples import AUDITED, ValueData
from rebend.recontrol.value_model.loss import packed
from rebend.recontrol.value_model.network import ValueNetwork

AUDIT_FILE = "audit.json"
CURVE_FILE = "audit.parquet"
CURVE = pa.schema(
    [
        ("place", pa.float64()),  # relative position in the response: 0 is its first token, 1 its last
        ("rank", pa.float64()),  # Spearman correlation of V at this place with the reward; null if undefined
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("residual", pa.float64()),  # root mean square of V(next) − V; at the last token, of r − V
        ("value", pa.float64()),  # mean V
    ]
)
THIRDS = ("first", "middle", "last")
_PLACES = 21
_BINS = 10


@dataclass(frozen=True)
class Audit:
    """The measurements (`facts` and `curve`), and the verdict `useful` with its `reason`."""

    useful: bool
    reason: str
    facts: dict[str, Any]
    curve: list[dict[str, float | None]] = field(repr=False)


@dataclass(frozen=True)
class _Statistics:
    """Statistics of N responses."""

    rewards: np.ndarray  # [N]
    values: np.ndarray  # [N, P] V at P places along the response
    residuals: np.ndarray  # [N, P]
    squared_steps: np.ndarray  # [N] mean square of V(next) − V; NaN for a single token
    thirds: np.ndarray  # [N, 3] mean V of each third of the tokens
    spread: np.ndarray  # [N] standard deviation of V along the response
    mean: np.ndarray  # [N] mean V
    last: np.ndarray  # [N] V at the last token


def audit(network: ValueNetwork, data: ValueData, batch_size: int) -> Audit:
    """Return the audit of a network on the AUDITED responses of `data`, read in batches of `batch_size`.

    Intervals count prompts, because responses to one prompt are not independent.
    """
    measured = _measure(network, data, batch_size)
    n = data.audited_prompts
    thirds = {name: rank(measured.thirds[:, i], measured.rewards, n) for i, name in enumerate(THIRDS)}
    between = float(measured.mean.std())
    within = float(np.sqrt(np.mean(measured.spread**2)))
    steps = measured.squared_steps
    useful, reason = _verdict(thirds["last"], n)
    facts = {
        "useful": useful,
        "reason": reason,
        "responses": len(measured.rewards),
        "prompts": n,
        "rank": thirds,
        "calibration": calibration(measured.last, measured.rewards),
        "residual": {
            "between_tokens": float(np.sqrt(np.nanmean(steps))) if np.isfinite(steps).any() else None,
            "at_the_end": float(np.sqrt(np.mean((measured.rewards - measured.last) ** 2))),
            "reward_deviation": float(measured.rewards.std()),
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
            **_curve_rank(rank(measured.values[:, i], measured.rewards, n)),
            "residual": float(np.sqrt(np.mean(measured.residuals[:, i] ** 2))),
            "value": float(measured.values[:, i].mean()),
        }
        for i, place in enumerate(places)
    ]
    return Audit(useful, reason, facts, curve)


def write_audit(folder: Path, result: Audit) -> None:
    """Write `audit.json` and `audit.parquet`. Warns on standard error if the network is useless."""
    write_json(folder / AUDIT_FILE, result.facts)
    write_parquet(folder / CURVE_FILE, pa.Table.from_pylist(result.curve, CURVE))
    if not result.useful:
        print(f"WARNING: the value network is useless for control: {result.reason}", file=sys.stderr, flush=True)


def rank(values: np.ndarray, rewards: np.ndarray, n: int) -> dict[str, float | None]:
    """Return Spearman's correlation with its 95 % interval for `n` independent prompts; None where undefined.

    The interval is Fisher's with the variance of Bonett and Wright (Psychometrika 2000, 65(1), 23).
    """
    undefined: dict[str, float | None] = {"estimate": None, "ci_low": None, "ci_high": None}
    if len(values) < 3 or np.ptp(values) == 0 or np.ptp(rewards) == 0:
        return undefined
    estimate = float(stats.spearmanr(values, rewards).statistic)
    if n < 4:
        return {**undefined, "estimate": estimate}
    error = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + estimate**2 / 2) / (n - 3))
    middle = np.arctanh(np.clip(estimate, -1 + 1e-12, 1 - 1e-12))
    return {"estimate": estimate, "ci_low": float(np.tanh(middle - error)), "ci_high": float(np.tanh(middle + error))}


def calibration(predicted: np.ndarray, actual: np.ndarray) -> list[dict[str, float]]:
    """Return the means of `predicted` V and of the `actual` reward in up to ten bins of equal size, sorted by V."""
    bins = np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(predicted)))
    return [
        {"n": len(rows), "predicted": float(predicted[rows].mean()), "actual": float(actual[rows].mean())}
        for rows in bins
    ]


def _verdict(last: dict[str, float | None], n: int) -> tuple[bool, str]:
    where = f"in the last third of held-out responses to {n} prompts"
    if last["estimate"] is None:
        return False, f"V, or the reward, is the same for all responses {where}"
    if last["ci_low"] is None:
        return False, f"{n} held-out prompts are too few for an interval"
    interval = f"{last['estimate']:.2f} [{last['ci_low']:.2f}, {last['ci_high']:.2f}]"
    if last["ci_low"] <= 0:
        return False, f"the rank correlation of V with the reward {where} is {interval}; its interval is not above 0"
    return True, f"the rank correlation of V with the reward {where} is {interval}"


@torch.no_grad()
def _measure(network: ValueNetwork, data: ValueData, batch_size: int) -> _Statistics:
    """Return the statistics of the AUDITED responses."""
    rows: list[tuple[np.ndarray, ...]] = []
    for batch in data.batches(AUDITED, batch_size):
        for response, reward in batch:
            states, _, _ = packed([(response, reward)], network)
            rows.append(_row(network(states).double().cpu().numpy(), reward))
    return _Statistics(*(np.array(column) for column in zip(*rows, strict=True)))


def _row(values: np.ndarray, reward: float) -> tuple[Any, ...]:
    """Return the fields of `_Statistics` for one response with V [T]."""
    n = len(values)
    places = np.round(np.linspace(0, n - 1, _PLACES)).astype(int)
    residuals = np.append(values[1:], reward) - values
    squared_steps = np.mean(residuals[:-1] ** 2) if n > 1 else np.nan
    thirds = [values[n * i // 3 : max(n * (i + 1) // 3, n * i // 3 + 1)].mean() for i in range(3)]
    return reward, values[places], residuals[places], squared_steps, thirds, values.std(), values.mean(), values[-1]


def _curve_rank(correlation: dict[str, float | None]) -> dict[str, float | None]:
    return {"rank": correlation["estimate"], "ci_low": correlation["ci_low"], "ci_high": correlation["ci_high"]}
