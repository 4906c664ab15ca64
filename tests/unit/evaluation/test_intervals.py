"""Intervals: closed forms, coverage, and unscored values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rebend.evaluation.intervals import (
    Estimate,
    average_rate,
    geometric_mean,
    geometric_ratio,
    mean,
    paired_gain,
    paired_ratio,
    rate,
    relative_reduction,
    wilson,
)


def test_unscored_values_are_counted_and_do_not_change_the_estimate() -> None:
    full, sparse = mean([1.0, 2.0, 4.0]), mean([1.0, None, 2.0, 4.0, float("nan"), None])
    assert (sparse.estimate, sparse.ci_low, sparse.ci_high) == (full.estimate, full.ci_low, full.ci_high)
    assert (sparse.n, sparse.not_scored) == (3, 3)
    assert rate([True, None, False, None]) == Estimate(0.5, *wilson(1, 2), 2, 2)


def test_estimate_without_scored_values_is_unknown() -> None:
    nothing = Estimate(None, None, None, 0, 2)
    assert mean([None, None]) == nothing == rate([None, None])
    assert paired_gain([None, 1.0], [1.0, None]) == nothing
    assert paired_ratio([None, 1.0], [1.0, None]) == nothing
    assert relative_reduction([None, None], [True, True]) == nothing


def test_bootstrap_interval_is_near_the_normal_interval_and_depends_on_the_seed() -> None:
    values = list(np.random.default_rng(1).normal(3.0, 2.0, 400))
    found = mean(values, seed=5)
    half = 1.96 * float(np.std(values)) / math.sqrt(400)
    assert found.estimate == pytest.approx(np.mean(values))
    assert found.ci_low is not None and found.ci_high is not None
    assert found.ci_high - found.ci_low == pytest.approx(2 * half, rel=0.08)
    assert found == mean(values, seed=5) != mean(values, seed=6)


def test_interval_of_one_value_is_unknown_and_of_equal_values_has_zero_width() -> None:
    assert mean([2.5]) == Estimate(2.5, None, None, 1, 0)
    assert mean([2.5] * 4) == Estimate(2.5, 2.5, 2.5, 4, 0)


def test_wilson_equals_the_formula_and_is_valid_at_zero_and_one() -> None:
    z, n, p = 1.959964, 20, 0.25
    centre, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = wilson(5, 20)
    assert low == pytest.approx((centre - half) / (1 + z * z / n), abs=1e-6)
    assert high == pytest.approx((centre + half) / (1 + z * z / n), abs=1e-6)
    assert wilson(0, 50)[0] == pytest.approx(0) and 0.05 < wilson(0, 50)[1] < 0.09
    assert wilson(50, 50)[1] == pytest.approx(1)


def test_paired_gain_has_a_narrower_interval_than_unpaired_values() -> None:
    rng = np.random.default_rng(2)
    before = list(rng.normal(0, 5, 200))
    after = [value + 0.5 + noise for value, noise in zip(before, rng.normal(0, 0.2, 200), strict=True)]
    gain = paired_gain(after, before)
    assert gain.ci_low is not None and 0.4 < gain.ci_low < 0.5 + 0.1
    assert gain.estimate == pytest.approx(np.mean(after) - np.mean(before))


def test_paired_gain_needs_lists_of_equal_length() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_gain([1.0], [1.0, 2.0])
    assert paired_gain([1.0, 2.0, None], [0.5, None, 1.0]).n == 1


def test_paired_ratio_is_the_ratio_of_means() -> None:
    ratio = paired_ratio([0.9, 0.8, 0.7, 0.6], [1.0, 0.9, 0.7, 0.7])
    assert ratio.estimate == pytest.approx(3.0 / 3.3)
    assert ratio.ci_low is not None and ratio.ci_high is not None
    assert ratio.ci_low < 3.0 / 3.3 < ratio.ci_high
    assert paired_ratio([1.0, 2.0], [-1.0, 0.5]).estimate is None


def test_reduction_to_zero_has_an_interval_with_positive_width() -> None:
    gone = relative_reduction([False] * 100, [True] * 98 + [False] * 2)
    assert gone.estimate == 1.0 and gone.ci_high == 1.0
    assert gone.ci_low is not None and 0.95 < gone.ci_low < 0.97  # Wilson's upper end of 0 in 100 is 0.037


def test_reduction_is_unknown_if_the_baseline_is_zero() -> None:
    assert relative_reduction([False] * 5, [False] * 5) == Estimate(None, None, None, 5, 0)


def test_increase_is_a_negative_reduction() -> None:
    risen = relative_reduction([True] * 80 + [False] * 20, [True] * 40 + [False] * 60)
    assert risen.estimate == pytest.approx(-1.0)
    assert risen.ci_high is not None and risen.ci_high < 0


def test_coverage_of_the_reduction_interval_is_near_its_level() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        base, adapted = rng.random(150) < 0.9, rng.random(150) < 0.06
        found = relative_reduction(list(adapted), list(base))
        assert found.ci_low is not None and found.ci_high is not None
        covered += found.ci_low <= 1 - 0.06 / 0.9 <= found.ci_high
    assert 0.92 <= covered / 300 <= 0.99


def test_average_rate_assumes_independence_only_for_different_prompts() -> None:
    found = [rate([True] * hits + [False] * (50 - hits)) for hits in (0, 25)]
    apart, together = (average_rate(list(zip(names, found, strict=True))) for names in (("a", "b"), ("a", "a")))
    assert apart.estimate == together.estimate == 0.25 and apart.n == 100
    highs = [figure.ci_high - figure.estimate for figure in found]
    assert apart.ci_high == pytest.approx(0.25 + (highs[0] ** 2 + highs[1] ** 2) ** 0.5 / 2)
    assert together.ci_high == pytest.approx(0.25 + sum(highs) / 2)
    assert average_rate([("a", found[0]), ("b", rate([None]))]).estimate is None
    assert average_rate([]).estimate is None


def test_geometric_mean_is_exp_of_the_mean_and_of_its_interval() -> None:
    logs = [0.1, 0.4, None, 1.0, 0.7]
    found, plain = geometric_mean(logs), mean(logs)
    assert plain.ci_low is not None and plain.ci_high is not None
    assert found.estimate == pytest.approx(math.exp(0.55))
    assert (found.ci_low, found.ci_high) == pytest.approx((math.exp(plain.ci_low), math.exp(plain.ci_high)))
    assert (found.n, found.not_scored) == (4, 1)
    assert geometric_mean([None]).estimate is None
    assert geometric_mean([1000.0, 1000.0]).estimate == math.inf


def test_geometric_ratio_is_over_rows_with_both_logarithms() -> None:
    found = geometric_ratio([1.0, 2.0, None, 5.0], [0.8, 1.6, 9.0, None])
    assert found.estimate == pytest.approx(math.exp(0.3))
    assert (found.ci_low, found.ci_high) == pytest.approx((math.exp(0.2), math.exp(0.4)))
    assert (found.n, found.not_scored) == (2, 2)
