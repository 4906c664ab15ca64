"""Estimates with intervals. Rows without a score are left out and counted in `not_scored`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
_BATCH_VALUES = 2_000_000  # resampled values held at a time


@dataclass(frozen=True)
class Estimate:
    """An estimate over `n` scored rows with its 95 % interval; unknown values are None."""

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    not_scored: int


def mean(values: Sequence[float | None], seed: int = 0) -> Estimate:
    """Return the mean with its bootstrap interval (percentiles of `RESAMPLES` means, drawn with `seed`)."""
    scored = _scored(values)
    missing = len(values) - len(scored)
    if not len(scored):
        return Estimate(None, None, None, 0, missing)
    low, high = _bootstrap_of_mean(scored, seed)
    return Estimate(float(scored.mean()), low, high, len(scored), missing)


def rate(outcomes: Sequence[bool | None]) -> Estimate:
    """Return the share of True among the outcomes that are not None, with Wilson's interval."""
    scored = [bool(outcome) for outcome in outcomes if outcome is not None]
    missing = len(outcomes) - len(scored)
    if not scored:
        return Estimate(None, None, None, 0, missing)
    hits = sum(scored)
    low, high = wilson(hits, len(scored))
    return Estimate(hits / len(scored), low, high, len(scored), missing)


def average_rate(rates: Sequence[tuple[str, Estimate]]) -> Estimate:
    """Return the unweighted mean of (prompts, rate) with an interval; unknown if one of the rates is unknown.

    The interval is MOVER (Zou and Donner, Stat. Med. 2008, 27(10), 1693) of the rates' own intervals: squared distances
    to the bounds are added; distances of rates on the same `prompts` are added before squaring, because these rates may
    be fully correlated.
    """
    n, missing = (sum(getattr(estimate, key) for _, estimate in rates) for key in ("n", "not_scored"))
    if not rates or any(estimate.estimate is None for _, estimate in rates):
        return Estimate(None, None, None, n, missing)
    below: dict[str, float] = {}
    above: dict[str, float] = {}
    for prompts, estimate in rates:
        p, low, high = _floats(estimate)
        below[prompts] = below.get(prompts, 0.0) + p - low
        above[prompts] = above.get(prompts, 0.0) + high - p
    point = sum(_floats(estimate)[0] for _, estimate in rates) / len(rates)
    ends = [math.hypot(*side.values()) / len(rates) for side in (below, above)]
    return Estimate(point, max(0.0, point - ends[0]), min(1.0, point + ends[1]), n, missing)


@functools.cache
def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's score interval of `hits` in `n` > 0."""
    interval = stats.binomtest(hits, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def paired_gain(values: Sequence[float | None], baseline: Sequence[float | None], seed: int = 0) -> Estimate:
    """Return the mean of value - baseline over rows with both scores, with its bootstrap interval.

    Row i must be the same prompt in both lists. Raises `ValueError` if their lengths differ.
    """
    pairs = _pairs(values, baseline)
    differences: list[float | None] = [None if pair is None else pair[0] - pair[1] for pair in pairs]
    return mean(differences, seed)


def paired_ratio(values: Sequence[float | None], baseline: Sequence[float | None], seed: int = 0) -> Estimate:
    """Return mean(values) / mean(baseline) over rows with both scores, with its bootstrap interval.

    Rows are resampled as pairs. Unknown if the mean of the baseline is not above zero; the interval is also unknown if
    the mean of a resampled baseline is not above zero.
    """
    pairs = _pairs(values, baseline)
    both = np.array([pair for pair in pairs if pair is not None], dtype=float).reshape(-1, 2)
    missing = len(pairs) - len(both)
    if not len(both) or both[:, 1].mean() <= 0:
        return Estimate(None, None, None, len(both), missing)
    low, high = _bootstrap([*both.T], _ratio_of_means, seed) if len(both) > 1 else (None, None)
    return Estimate(float(_ratio_of_means(*both.T)), low, high, len(both), missing)


def relative_reduction(outcomes: Sequence[bool | None], baseline: Sequence[bool | None]) -> Estimate:
    """Return 1 - rate(outcomes) / rate(baseline), with an interval that is also valid for rates of 0 and 1.

    The interval is MOVER-R (Donner and Zou, Stat. Methods Med. Res. 2012, 21(4), 347) of two Wilson intervals. It
    assumes independent rates, which is conservative for two rates on the same prompts. Unknown if the rate of the
    baseline is 0. `n` and `not_scored` are those of `outcomes`.
    """
    reduced, base = rate(outcomes), rate(baseline)
    if not reduced.n or not base.n or not base.estimate:
        return Estimate(None, None, None, reduced.n, reduced.not_scored)
    p, l1, u1 = _floats(reduced)
    q, l2, u2 = _floats(base)
    product = p * q
    low = (product - math.sqrt(max(0.0, product**2 - l1 * u2 * (2 * p - l1) * (2 * q - u2)))) / (u2 * (2 * q - u2))
    high = (product + math.sqrt(max(0.0, product**2 - u1 * l2 * (2 * p - u1) * (2 * q - l2)))) / (l2 * (2 * q - l2))
    return Estimate(1 - p / q, 1 - high, 1 - max(0.0, low), reduced.n, reduced.not_scored)


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
    return np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)


def _pairs(values: Sequence[float | None], baseline: Sequence[float | None]) -> list[tuple[float, float] | None]:
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values cannot be paired with {len(baseline)} of the baseline")
    return [None if a is None or b is None else (a, b) for a, b in zip(values, baseline, strict=True)]


def _floats(estimate: Estimate) -> tuple[float, float, float]:
    """Return estimate, lower and upper bound of a known rate."""
    assert estimate.estimate is not None and estimate.ci_low is not None and estimate.ci_high is not None
    return estimate.estimate, estimate.ci_low, estimate.ci_high
