"""Test a value network on held-out responses, before it is used for decoding.

The audit measures five things: the rank correlation of V with the final reward along the response, the same at the
state that the end token was sampled from, the calibration of V at the last token, the TD residual between adjacent
tokens, and how much V varies along a response and between responses. A network is useless if the rank correlation in
the last third of the responses, where prediction is easiest, is not above 0: its gradient is noise. Control also acts
on the end token's state, so there is a warning if the correlation there is not above 0.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from rebend.evaluation.clustered import LEVEL
from rebend.io.files import write_json, write_parquet
from rebend.recontrol.value_model.examples import AUDITED, HELD_OUT, ValueData
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
    end: np.ndarray  # [N] V at the state of the end token; NaN if there is none

    def with_tokens(self) -> _Statistics:
        """Return the statistics of the responses that have a token."""
        rows = ~np.isnan(self.last)
        return _Statistics(*(getattr(self, column.name)[rows] for column in fields(self)))


def audit(network: ValueNetwork, data: ValueData, batch_size: int) -> Audit:
    """Return the audit of a network on the AUDITED responses of `data`, read in batches of `batch_size`.

    Intervals count prompts, because responses to one prompt are not independent. Only `end_state` counts empty
    responses, which have no token. If no prompt is held out, the responses are of training, and the reason says so.
    """
    measured = _measure(network, data, batch_size)
    n, held_out = data.audited_prompts, data.count(HELD_OUT) > 0
    at_end = _end_state(measured, n)
    measured = measured.with_tokens()
    thirds = {name: rank(measured.thirds[:, i], measured.rewards, n) for i, name in enumerate(THIRDS)}
    between = float(measured.mean.std())
    within = float(np.sqrt(np.mean(measured.spread**2)))
    steps = measured.squared_steps
    useful, reason = _verdict(thirds["last"], n, "held-out" if held_out else "training")
    facts = {
        "useful": useful,
        "reason": reason,
        "responses": len(measured.rewards),
        "prompts": n,
        "held_out": held_out,
        "rank": thirds,
        "end_state": at_end,
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
    if warning := end_warning(result.facts.get("end_state", {})):
        print(f"WARNING: {warning}", file=sys.stderr, flush=True)


def end_warning(at_end: Mapping[str, Any]) -> str:
    """Return a warning if V does not order the rewards at the states of end tokens; empty if it does, or is unknown."""
    rank_there = at_end.get("rank", {})
    if rank_there.get("ci_low") is None or rank_there["ci_low"] > 0:
        return ""
    interval = f"{rank_there['estimate']:.2f} [{rank_there['ci_low']:.2f}, {rank_there['ci_high']:.2f}]"
    return (
        f"at the state that the end token is sampled from, on which control acts too, the rank correlation of V with "
        f"the reward is {interval}; its interval is not above 0 (is `end_state` of the value model `left_out`?)"
    )


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


def _end_state(measured: _Statistics, n: int) -> dict[str, Any]:
    """Return what V says at the states of end tokens, and at the last tokens of the same responses."""
    ended = ~np.isnan(measured.end)
    values, rewards = measured.end[ended], measured.rewards[ended]
    before = measured.last[ended & ~np.isnan(measured.last)]
    return {
        "responses": len(values),
        "rank": rank(values, rewards, min(n, len(values))),
        "mean": float(values.mean()) if len(values) else None,
        "mean_at_last_token": float(before.mean()) if len(before) else None,
        "mean_reward": float(rewards.mean()) if len(values) else None,
    }


def _verdict(last: dict[str, float | None], n: int, side: str) -> tuple[bool, str]:
    where = f"in the last third of {side} responses to {n} prompts"
    if last["estimate"] is None:
        return False, f"V, or the reward, is the same for all responses {where}"
    if last["ci_low"] is None:
        return False, f"{n} {side} prompts are too few for an interval"
    interval = f"{last['estimate']:.2f} [{last['ci_low']:.2f}, {last['ci_high']:.2f}]"
    if last["ci_low"] <= 0:
        return False, f"the rank correlation of V with the reward {where} is {interval}; its interval is not above 0"
    return True, f"the rank correlation of V with the reward {where} is {interval}"


@torch.no_grad()
def _measure(network: ValueNetwork, data: ValueData, batch_size: int) -> _Statistics:
    """Return the statistics of the AUDITED responses."""
    rows: list[tuple[np.ndarray, ...]] = []
    for batch in data.batches(AUDITED, batch_size):
        for row in batch:
            states, _, _ = packed([row], network)
            rows.append(_row(network(states).double().cpu().numpy(), row.n_tokens, row.reward))
    return _Statistics(*(np.array(column) for column in zip(*rows, strict=True)))


def _row(values: np.ndarray, n: int, reward: float) -> tuple[Any, ...]:
    """Return the fields of `_Statistics` for one response of `n` tokens, with V [N] at them and at an end token."""
    end = values[n] if len(values) > n else np.nan
    if not n:
        nothing = np.full(_PLACES, np.nan)
        return reward, nothing, nothing, np.nan, np.full(3, np.nan), np.nan, np.nan, np.nan, end
    values = values[:n]
    places = np.round(np.linspace(0, n - 1, _PLACES)).astype(int)
    residuals = np.append(values[1:], reward) - values
    squared_steps = np.mean(residuals[:-1] ** 2) if n > 1 else np.nan
    thirds = [values[n * i // 3 : max(n * (i + 1) // 3, n * i // 3 + 1)].mean() for i in range(3)]
    spread, mean = values.std(), values.mean()
    return reward, values[places], residuals[places], squared_steps, thirds, spread, mean, values[-1], end


def _curve_rank(correlation: dict[str, float | None]) -> dict[str, float | None]:
    return {"rank": correlation["estimate"], "ci_low": correlation["ci_low"], "ci_high": correlation["ci_high"]}
