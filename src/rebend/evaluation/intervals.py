"""Estimates with intervals. Rows without a score are left out and counted in `not_scored`.

`clusters` names what rows have in common (the question behind several jailbreaks), `seeds` the training that a row is
of; both are a key per row. Rows of one cluster are not independent, and neither are rows of one training
(`rebend.evaluation.clustered`). If every row is its own cluster, of one seed, all intervals are the ordinary ones.
docs/statistics.md names each interval, its source and its coverage.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from rebend.evaluation.clustered import LEVEL, Groups, clustered_wilson, groups, spread

RESAMPLES = 2000
_BATCH_VALUES = 2_000_000  # resampled values held at a time


Keys = Sequence[Hashable] | None


@dataclass(frozen=True)
class Estimate:
    """An estimate over `n` scored rows with its 95 % interval; unknown values are None.

    The rows are of `clusters` independent clusters (None: every row is its own) and of `seeds` trainings.
    """

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    not_scored: int
    clusters: int | None = None
    seeds: int = 1


def mean(values: Sequence[float | None], clusters: Keys = None, seeds: Keys = None, seed: int = 0) -> Estimate:
    """Return the mean with its bootstrap interval (percentiles of `RESAMPLES` means, drawn with `seed`).

    Clusters are drawn whole, at a level widened for few clusters (`_bootstrap_of_clusters`). With several seeds it is
    Student's interval with the two-way variance (`rebend.evaluation.clustered.spread`).
    """
    known = [_is_known(value) for value in values]
    rows = groups(known, clusters, seeds)
    scored = _scored(values)
    missing = len(values) - len(scored)
    if not len(scored):
        return Estimate(None, None, None, 0, missing)
    if rows.independent:
        low, high = _bootstrap_of_mean(scored, seed)
    else:
        low, high = _clustered_interval(scored, np.ones_like(scored), rows, seed)
    return Estimate(float(scored.mean()), low, high, len(scored), missing, *_counts(rows, clusters))


def geometric_mean(logs: Sequence[float | None], clusters: Keys = None, seeds: Keys = None, seed: int = 0) -> Estimate:
    """Return exp of the mean of logarithms, with exp of the interval of `mean`; infinity beyond the largest float."""
    return _exp(mean(logs, clusters, seeds, seed))


def geometric_ratio(
    logs: Sequence[float | None],
    baseline: Sequence[float | None],
    clusters: Keys = None,
    seeds: Keys = None,
    seed: int = 0,
) -> Estimate:
    """Return the ratio of two geometric means over rows with both logarithms, with exp of `paired_gain`'s interval."""
    return _exp(paired_gain(logs, baseline, clusters, seeds, seed))


def _exp(found: Estimate) -> Estimate:
    ends = (found.estimate, found.ci_low, found.ci_high)
    with np.errstate(over="ignore"):
        powers = [None if end is None else float(np.exp(end)) for end in ends]
    return replace(found, estimate=powers[0], ci_low=powers[1], ci_high=powers[2])


def rate(outcomes: Sequence[bool | None], clusters: Keys = None, seeds: Keys = None) -> Estimate:
    """Return the share of True among the outcomes that are not None, with Wilson's interval.

    With clusters or seeds Wilson's formula has the effective number of rows (`clustered_wilson`).
    """
    scored = [bool(outcome) for outcome in outcomes if outcome is not None]
    rows = groups([outcome is not None for outcome in outcomes], clusters, seeds)
    missing = len(outcomes) - len(scored)
    if not scored:
        return Estimate(None, None, None, 0, missing)
    hits = sum(scored)
    low, high = wilson(hits, len(scored)) if rows.independent else clustered_wilson(np.array(scored, float), rows)
    return Estimate(hits / len(scored), low, high, len(scored), missing, *_counts(rows, clusters))


def average_rate(rates: Sequence[tuple[str, Estimate]]) -> Estimate:
    """Return the unweighted mean of (prompts, rate) with an interval; unknown if one of the rates is unknown.

    The interval is MOVER (Zou and Donner, Stat. Med. 2008, 27(10), 1693) of the rates' own intervals: squared distances
    to the bounds are added; distances of rates on the same `prompts` are added before squaring, because these rates may
    be fully correlated. Rates over several seeds are of the same trainings, so all of their distances are added.
    """
    n, missing = (sum(getattr(estimate, key) for _, estimate in rates) for key in ("n", "not_scored"))
    seeds = max((estimate.seeds for _, estimate in rates), default=1)
    known = [estimate.clusters for _, estimate in rates if estimate.clusters is not None]
    counts = n, missing, sum(known) if known and len(known) == len(rates) else None, seeds
    if not rates or any(estimate.estimate is None for _, estimate in rates):
        return Estimate(None, None, None, *counts)
    below: dict[str, float] = {}
    above: dict[str, float] = {}
    for name, estimate in rates:
        prompts = name if seeds == 1 else ""
        p, low, high = _floats(estimate)
        below[prompts] = below.get(prompts, 0.0) + p - low
        above[prompts] = above.get(prompts, 0.0) + high - p
    point = sum(_floats(estimate)[0] for _, estimate in rates) / len(rates)
    ends = [math.hypot(*side.values()) / len(rates) for side in (below, above)]
    return Estimate(point, max(0.0, point - ends[0]), min(1.0, point + ends[1]), *counts)


@functools.cache
def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's score interval of `hits` in `n` > 0."""
    interval = stats.binomtest(hits, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def paired_gain(
    values: Sequence[float | None],
    baseline: Sequence[float | None],
    clusters: Keys = None,
    seeds: Keys = None,
    seed: int = 0,
) -> Estimate:
    """Return the mean of value - baseline over rows with both scores, with the interval of `mean`.

    Row i must be the same prompt in both lists. Raises `ValueError` if their lengths differ.
    """
    pairs = _pairs(values, baseline)
    differences: list[float | None] = [None if pair is None else pair[0] - pair[1] for pair in pairs]
    return mean(differences, clusters, seeds, seed)


def paired_ratio(
    values: Sequence[float | None],
    baseline: Sequence[float | None],
    clusters: Keys = None,
    seeds: Keys = None,
    seed: int = 0,
) -> Estimate:
    """Return mean(values) / mean(baseline) over rows with both scores, with the interval of `mean`.

    Rows are resampled as pairs. Unknown if the mean of the baseline is not above zero; the interval is also unknown if
    the mean of a resampled baseline is not above zero.
    """
    pairs = _pairs(values, baseline)
    rows = groups([pair is not None for pair in pairs], clusters, seeds)
    both = np.array([pair for pair in pairs if pair is not None], dtype=float).reshape(-1, 2)
    missing = len(pairs) - len(both)
    if not len(both) or both[:, 1].mean() <= 0:
        return Estimate(None, None, None, len(both), missing)
    if rows.independent:
        low, high = _bootstrap([*both.T], _ratio_of_means, seed) if len(both) > 1 else (None, None)
    else:
        low, high = _clustered_interval(both[:, 0], both[:, 1], rows, seed)
    return Estimate(float(_ratio_of_means(*both.T)), low, high, len(both), missing, *_counts(rows, clusters))


def relative_reduction(
    outcomes: Sequence[bool | None],
    baseline: Sequence[bool | None],
    clusters: tuple[Keys, Keys] = (None, None),
    seeds: tuple[Keys, Keys] = (None, None),
) -> Estimate:
    """Return 1 - rate(outcomes) / rate(baseline), with an interval that is also valid for rates of 0 and 1.

    The interval is MOVER-R (Donner and Zou, Stat. Methods Med. Res. 2012, 21(4), 347) of the intervals of two rates,
    with their own `clusters` and `seeds`. It assumes independent rates, which is conservative for two rates on the same
    prompts. Unknown if the rate of the baseline is 0. All counts are those of `outcomes`.
    """
    reduced, base = rate(outcomes, clusters[0], seeds[0]), rate(baseline, clusters[1], seeds[1])
    counts = reduced.n, reduced.not_scored, reduced.clusters, reduced.seeds
    if not reduced.n or not base.n or not base.estimate:
        return Estimate(None, None, None, *counts)
    p, l1, u1 = _floats(reduced)
    q, l2, u2 = _floats(base)
    if not l2 or u2 == 2 * q:  # the base's rows are of one cluster: its rate may be anything
        return Estimate(1 - p / q, None, None, *counts)
    product = p * q
    low = (product - math.sqrt(max(0.0, product**2 - l1 * u2 * (2 * p - l1) * (2 * q - u2)))) / (u2 * (2 * q - u2))
    high = (product + math.sqrt(max(0.0, product**2 - u1 * l2 * (2 * p - u1) * (2 * q - l2)))) / (l2 * (2 * q - l2))
    return Estimate(1 - p / q, 1 - high, 1 - max(0.0, low), *counts)


def _counts(rows: Groups, clusters: Keys) -> tuple[int | None, int]:
    """Return the numbers of clusters (None if none were named) and of seeds."""
    return None if clusters is None else rows.n_clusters, rows.n_seeds


def _clustered_interval(
    values: np.ndarray, divisors: np.ndarray, rows: Groups, seed: int
) -> tuple[float | None, float | None]:
    """Return the interval of sum(values) / sum(divisors); unknown for one cluster, of zero width for equal values."""
    ratio = float(values.sum() / divisors.sum())
    residuals = values - ratio * divisors
    if rows.n_clusters < 2:
        return None, None
    if not np.abs(residuals).max() > 1e-12 * max(1.0, np.abs(values).max()):
        return ratio, ratio
    if rows.n_seeds == 1:
        return _bootstrap_of_clusters(values, divisors, rows, seed)
    found = spread(residuals, float(divisors.sum()), rows)
    assert found is not None  # there are several clusters
    half = found.t * math.sqrt(found.variance)
    return ratio - half, ratio + half


def _bootstrap_of_clusters(
    values: np.ndarray, divisors: np.ndarray, rows: Groups, seed: int
) -> tuple[float | None, float | None]:
    """Return the percentile interval over drawn clusters, expanded for their number G.

    Percentiles are those of z = t(G - 1) √(G / (G - 1)) (Hesterberg, Am. Stat. 2015, 69(4), 371).
    """
    n = rows.n_clusters
    totals = np.stack([np.bincount(rows.cluster, weights=part) for part in (values, divisors)])
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    above, below = (draws @ part for part in totals)
    if (below <= 0).any():
        return None, None
    tail = stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(above / below, [tail, 1 - tail])
    return float(low), float(high)


def _bootstrap_of_mean(scored: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """Return the percentile interval; unknown for a single value, with zero width for equal values."""
    if len(scored) < 2:
        return None, None
    if np.ptp(scored) == 0:
        return float(scored[0]), float(scored[0])
    return _bootstrap([scored], np.mean, seed)


def _bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], seed: int
) -> tuple[float | None, float | None]:
    """Return the percentile interval of a statistic of paired samples; unknown if it is NaN in any resample."""
    result = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH_VALUES // len(samples[0])),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    if np.isnan(result.bootstrap_distribution).any():
        return None, None
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _ratio_of_means(values: np.ndarray, baseline: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the ratio of means; NaN if the mean of the baseline is not above zero."""
    below = baseline.mean(axis)
    return values.mean(axis) / np.where(below > 0, below, np.nan)


def _scored(values: Sequence[float | None]) -> np.ndarray:
    return np.array([value for value in values if _is_known(value)], dtype=float)


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _pairs(values: Sequence[float | None], baseline: Sequence[float | None]) -> list[tuple[float, float] | None]:
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values cannot be paired with {len(baseline)} of the baseline")
    return [None if a is None or b is None else (a, b) for a, b in zip(values, baseline, strict=True)]


def _floats(estimate: Estimate) -> tuple[float, float, float]:
    """Return estimate, lower and upper bound of a known rate."""
    assert estimate.estimate is not None and estimate.ci_low is not None and estimate.ci_high is not None
    return estimate.estimate, estimate.ci_low, estimate.ci_high
