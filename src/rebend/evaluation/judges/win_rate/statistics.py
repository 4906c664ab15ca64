"""Statistics of one file of verdicts: win rates with intervals, disagreement between orders, effect of length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rebend.evaluation.clustered import LEVEL, Groups, groups
from rebend.evaluation.intervals import Estimate, Keys, mean, rate, wilson
from rebend.evaluation.judges.win_rate.verdict import LOSE, STATES, TIE, WIN, compare

RESAMPLES = 1000
_RIDGE = 1.0  # weight of b²/2, as C = 1 in scikit-learn; keeps b finite if length separates the outcomes
_STEPS = 50
_LONGEST_STEP = 2.0
_NEAR = 1e-10
_POINTS = {WIN: 1.0, TIE: 0.5, LOSE: 0.0}


def length_controlled(
    wins: Sequence[bool | None],
    differences: Sequence[float | None],
    seed: int = 0,
    clusters: Keys = None,
    seeds: Keys = None,
) -> tuple[Estimate, float | None]:
    """Return the win rate at equal length with its bootstrap interval, and the slope b (above 0: longer wins more).

    Clusters are drawn whole. With several seeds, both the clusters and the seeds are drawn, independently (Owen, Ann.
    Appl. Stat. 2007, 1(2), 386), which is too wide rather than too narrow.

    `differences` are lengths of response minus reference, in characters; rows with None in either list are not scored.
    The estimate is unknown if equal length is outside the data: all responses are longer, or all are shorter. If all
    outcomes are equal, the interval is Wilson's. Raises `ValueError` if the two lists differ in length.
    """
    if len(wins) != len(differences):
        raise ValueError(f"{len(wins)} outcomes, but {len(differences)} differences of length")
    pairs = [(w, d) for w, d in zip(wins, differences, strict=True) if w is not None and d is not None]
    rows = groups([w is not None and d is not None for w, d in zip(wins, differences, strict=True)], clusters, seeds)
    missing = len(wins) - len(pairs)
    y = np.array([w for w, _ in pairs], dtype=float)
    d = np.array([d for _, d in pairs], dtype=float)
    counts = missing, None if clusters is None else rows.n_clusters, rows.n_seeds
    if not len(y) or d.min() > 0 or d.max() < 0:
        return Estimate(None, None, None, len(y), *counts), None
    if y.min() == y.max():  # resamples of equal outcomes would give an interval of zero width
        low, high = wilson(int(y.sum()) and rows.n_clusters, rows.n_clusters)
        return Estimate(float(y[0]), low, high, len(y), *counts), 0.0
    spread = d.std()
    x = np.tanh(d / spread) if spread else np.zeros_like(d)
    rates, slopes = _fit(x, y, np.ones((1, len(y))))
    point, slope = float(rates[0]), float(slopes[0])
    if rows.n_clusters < 2 and not rows.independent:
        return Estimate(point, None, None, len(y), *counts), slope
    drawn, _ = _fit(x, y, _resampled(rows, seed))
    ends = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(point, float(ends[0]), float(ends[1]), len(y), *counts), slope


def _resampled(rows: Groups, seed: int) -> np.ndarray:
    """Return how often each row is in each resample, [`RESAMPLES`, N]: clusters, and seeds if several, are drawn."""
    rng, n, s = np.random.default_rng(seed), rows.n_clusters, rows.n_seeds
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)[:, rows.cluster]
    return weights if s == 1 else weights * rng.multinomial(s, np.full(s, 1 / s), size=RESAMPLES)[:, rows.seed]


def _fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sigmoid(a) and b, each [R], of R logistic regressions with weights [R, N] on the same x and y, both [N].

    Newton's method runs on all R at once. A resample with a single outcome has no finite a; its rate is that outcome.
    """
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    total, hits = weights.sum(axis=1), weights @ y
    one_sided = (hits == 0) | (hits == total)
    for _ in range(_STEPS):
        p = _sigmoid(a[:, None] + b[:, None] * x)
        residual, curve = weights * (y - p), weights * p * (1 - p)
        slope_a, slope_b = residual.sum(axis=1), residual @ x - _RIDGE * b
        aa, ab, bb = curve.sum(axis=1) + _NEAR, curve @ x, curve @ (x * x) + _RIDGE
        determinant = aa * bb - ab**2
        step_a = np.clip((bb * slope_a - ab * slope_b) / determinant, -_LONGEST_STEP, _LONGEST_STEP)
        step_b = np.clip((aa * slope_b - ab * slope_a) / determinant, -_LONGEST_STEP, _LONGEST_STEP)
        a, b = np.where(one_sided, a, a + step_a), np.where(one_sided, b, b + step_b)
        if np.abs(np.where(one_sided, 0.0, np.maximum(abs(step_a), abs(step_b)))).max() < _NEAR:
            break
    return np.where(one_sided, hits / total, _sigmoid(a)), b


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))  # does not overflow


@dataclass(frozen=True)
class WinRates:
    """Statistics of one model under one control on one data set. Rates are over judged rows."""

    states: dict[str, int]  # rows by state, in the order of STATES
    win_rate: Estimate  # wins only; Wilson's interval
    win_rate_bootstrap: Estimate  # the same with a bootstrap interval
    half_tie_rate: Estimate  # a tie counts as half a win; bootstrap interval
    flip_rate: Estimate  # share of rows judged in both orders whose verdicts differ
    ties_of_orders: int  # ties because the two orders differ; the other ties are ties in both orders
    length_controlled: Estimate  # win rate at equal length
    length_slope: float | None  # above 0: longer responses win more
    longer_wins: Estimate  # share of decided rows of unequal length in which the longer answer won
    response_longer: Estimate  # share of responses longer than their reference
    tokens_in: int
    tokens_out: int

    def facts(self) -> dict[str, Any]:
        """Return the main statistics as plain values for a record."""
        names = ("win_rate", "half_tie_rate", "flip_rate", "length_controlled", "longer_wins")
        return {"states": self.states, **{name: asdict(getattr(self, name)) for name in names}}


def win_rates(table: pa.Table, seed: int = 0, clusters: Keys = None, seeds: Keys = None) -> WinRates:
    """Return the statistics of a table of schema DETAILED_VERDICTS; `seed` is for the bootstrap.

    `clusters` and `seeds` are a key per row (`rebend.evaluation.intervals`).
    """
    rows = table.to_pylist()
    verdicts = [row["verdict"] for row in rows]
    wins = [None if verdict is None else verdict == WIN for verdict in verdicts]
    lengths = [_difference(row) for row in rows]
    orders = [_orders(row) for row in rows]
    flips = [None if pair is None else pair[0] != pair[1] for pair in orders]
    controlled, slope = length_controlled(wins, lengths, seed, clusters, seeds)
    counts = Counter(row["state"] for row in rows)
    longer = [None if d is None or v is None else d > 0 for v, d in zip(verdicts, lengths, strict=True)]
    return WinRates(
        states={state: counts[state] for state in STATES},
        win_rate=rate(wins, clusters, seeds),
        win_rate_bootstrap=mean([None if won is None else float(won) for won in wins], clusters, seeds, seed),
        half_tie_rate=mean([_POINTS.get(verdict) for verdict in verdicts], clusters, seeds, seed),
        flip_rate=rate(flips, clusters, seeds),
        ties_of_orders=sum(bool(flip) for flip, verdict in zip(flips, verdicts, strict=True) if verdict == TIE),
        length_controlled=controlled,
        length_slope=slope,
        longer_wins=_longer_wins(verdicts, lengths, clusters, seeds),
        response_longer=rate(longer, clusters, seeds),
        tokens_in=sum(row["tokens_in"] or 0 for row in rows),
        tokens_out=sum(row["tokens_out"] or 0 for row in rows),
    )


def _difference(row: dict[str, Any]) -> float | None:
    """Return the length of the response minus that of the reference, in characters."""
    response, reference = row["response_length"], row["reference_length"]
    return None if response is None or reference is None else float(response - reference)


def _orders(row: dict[str, Any]) -> list[str] | None:
    """Return the verdicts of the two orders; None if the row was not judged in two orders."""
    response, reference = row["response_marks"], row["reference_marks"]
    if response is None or reference is None or len(response) != 2:
        return None
    return [compare(*pair) for pair in zip(response, reference, strict=True)]


def _longer_wins(
    verdicts: Sequence[str | None], lengths: Sequence[float | None], clusters: Keys, seeds: Keys
) -> Estimate:
    """Return how often the longer answer won, over rows with a winner and answers of unequal length."""
    decided = [i for i, verdict in enumerate(verdicts) if verdict in (WIN, LOSE) and lengths[i]]
    won = [(verdicts[i] == WIN) == ((lengths[i] or 0.0) > 0) for i in decided]
    keys = [None if keys is None else [keys[i] for i in decided] for keys in (clusters, seeds)]
    return rate(won, *keys)
