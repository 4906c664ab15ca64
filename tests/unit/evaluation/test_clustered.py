"""Intervals of clustered rows and of several training seeds: hand values, plain loops, coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rebend.evaluation.clustered import clustered_wilson, groups, paired_p, sign_flip_p, spread
from rebend.evaluation.intervals import (
    Estimate,
    average_rate,
    mean,
    paired_gain,
    paired_ratio,
    rate,
    relative_reduction,
    wilson,
)

KNOWN = [True] * 6


def test_unclustered_rows_have_exactly_the_ordinary_intervals() -> None:
    rng = np.random.default_rng(0)
    values = [float(v) for v in rng.normal(1, 2, 50)]
    base = [abs(v) + 1.0 for v in values]
    hits = [bool(v > 0.4) for v in values]
    own, one = list(range(50)), ["a"] * 50

    def same(clustered: Estimate, plain: Estimate) -> None:
        for name in ("estimate", "ci_low", "ci_high", "n", "not_scored"):
            assert getattr(clustered, name) == getattr(plain, name)
        assert (clustered.clusters, clustered.seeds) == (50, 1)

    same(rate(hits, own, one), Estimate(sum(hits) / 50, *wilson(sum(hits), 50), 50, 0))
    same(rate(hits, own), rate(hits))
    same(mean(values, own, one, seed=3), mean(values, seed=3))
    same(paired_gain(values, base, own), paired_gain(values, base))
    same(paired_ratio(values, base, own), paired_ratio(values, base))
    same(relative_reduction(hits, [True] * 50, (own, own)), relative_reduction(hits, [True] * 50))
    # The digits of the version before clusters
    assert rate([True] * 13 + [False] * 37).ci_low == 0.15871527493552384
    assert mean([0.5, 1.0, 4.0, 2.5, 7.0], seed=1) == Estimate(3.0, 1.1, 5.2, 5, 0)


def test_variance_of_clusters_is_that_of_their_totals() -> None:
    # Clusters a: 1, 1, 0; b: 0, 0; c: 1. Share 1/2; totals of residuals: 1/2, -1, 1/2. V = 3/2 (1/4 + 1 + 1/4) / 36
    outcomes = np.array([1.0, 1, 0, 0, 0, 1])
    found = spread(outcomes - 0.5, 6, groups(KNOWN, list("aaabbc")))
    assert found is not None
    assert (found.variance, found.df) == (pytest.approx(1.5 * 1.5 / 36), 2)
    assert found.t == pytest.approx(4.302653, abs=1e-6)


def test_wilson_of_clusters_has_the_effective_number_of_rows() -> None:
    outcomes = np.array([1.0, 1, 0, 0, 0, 1])
    n = 0.25 / (1.5 * 1.5 / 36) * (1.959964 / 4.302653) ** 2
    low, high = clustered_wilson(outcomes, groups(KNOWN, list("aaabbc")))
    z2 = 1.959964**2
    half = math.sqrt(z2 * (0.25 / n + z2 / (4 * n * n)))
    assert low == pytest.approx((0.5 + z2 / (2 * n) - half) / (1 + z2 / n), abs=1e-6)
    assert high == pytest.approx((0.5 + z2 / (2 * n) + half) / (1 + z2 / n), abs=1e-6)
    assert rate([None, *map(bool, outcomes)], list("xaaabbc")) == Estimate(0.5, low, high, 6, 1, 3, 1)


def test_equal_outcomes_count_as_one_row_per_cluster() -> None:
    none = rate([False] * 40, [i // 4 for i in range(40)])
    assert (none.ci_low, none.ci_high) == (0.0, pytest.approx(wilson(0, 10)[1]))
    every = rate([True] * 6, list("aabbcc"), list("121212"))
    assert (every.ci_low, every.ci_high) == (pytest.approx(wilson(3, 3)[0]), 1.0)


def test_rows_of_one_cluster_have_no_interval() -> None:
    assert rate([True, False, False], "aaa") == Estimate(1 / 3, 0.0, 1.0, 3, 0, 1, 1)
    assert mean([1.0, 2.0], "aa") == Estimate(1.5, None, None, 2, 0, 1, 1)
    low = relative_reduction([False] * 4, [True, False], (list("abcd"), list("aa")))
    assert (low.estimate, low.ci_low, low.ci_high) == (1.0, None, None)


def test_variance_over_seeds_adds_the_variances_of_prompts_and_seeds() -> None:
    """A plain loop over a table of prompts x seeds, by the two-way analysis of variance."""
    table = np.array([[1.0, 2.0, 6.0], [0.0, 1.0, 3.0], [2.0, 2.0, 7.0], [1.0, 0.0, 4.0]])
    prompts, seeds = 4, 3
    centre = sum(table[p][s] for p in range(prompts) for s in range(seeds)) / 12
    of_prompt = [sum(table[p]) / 3 for p in range(prompts)]
    of_seed = [sum(table[p][s] for p in range(prompts)) / 4 for s in range(seeds)]
    v_prompts = sum((m - centre) ** 2 for m in of_prompt) / (3 * 4)
    v_seeds = sum((m - centre) ** 2 for m in of_seed) / (2 * 3)
    v_both = sum(
        (table[p][s] - of_prompt[p] - of_seed[s] + centre) ** 2 for p in range(prompts) for s in range(seeds)
    ) / (3 * 2 * 12)
    expected = v_prompts + v_seeds - v_both
    assert v_seeds > 5 * v_prompts  # else the example would not need the seeds
    values = [float(v) for v in table.ravel()]
    keys = [p for p in range(prompts) for _ in range(seeds)], [s for _ in range(prompts) for s in range(seeds)]
    found = spread(np.array(values) - centre, 12, groups([True] * 12, *keys))
    assert found is not None and found.variance == pytest.approx(expected)
    df = expected**2 / (v_prompts**2 / 3 + v_seeds**2 / 2)
    assert found.df == pytest.approx(df)
    interval = mean(values, *keys)
    half = stats.t.ppf(0.975, df) * math.sqrt(expected)
    assert (interval.ci_low, interval.ci_high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert (interval.n, interval.clusters, interval.seeds) == (12, 4, 3)


def test_seeds_that_agree_leave_the_interval_of_the_prompts() -> None:
    hits = [i % 3 == 0 for i in range(60)]
    thrice = rate(hits * 3, list(range(60)) * 3, [s for s in "abc" for _ in range(60)])
    alone = rate(hits)
    assert thrice.estimate == alone.estimate and (thrice.n, thrice.clusters) == (180, 60)
    assert thrice.ci_high == pytest.approx(alone.ci_high, abs=0.01) and thrice.ci_low is not None
    # and seeds of 0, 0 and 0.54 say little, however many prompts there are
    far = rate(
        [False] * 800 + [i % 2 == 0 for i in range(400)], list(range(400)) * 3, [0] * 400 + [1] * 400 + [2] * 400
    )
    assert far.ci_low is not None and far.ci_low < 0.03 and far.ci_high is not None and far.ci_high > 0.6


def test_seeds_without_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="repeat the same prompts"):
        rate([True, True], None, [0, 1])
    with pytest.raises(ValueError, match="1 clusters for 2 rows"):
        rate([True, True], ["a"])


def test_bootstrap_of_clusters_is_wider_and_that_of_a_ratio_too() -> None:
    rng = np.random.default_rng(4)
    shared = np.repeat(rng.normal(0, 1, 40), 5)
    values = [float(v) for v in 3 + shared + rng.normal(0, 0.3, 200)]
    keys = [i // 5 for i in range(200)]
    clustered, plain = mean(values, keys), mean(values)
    assert clustered.estimate == plain.estimate and clustered.clusters == 40
    sizes = [found.ci_high - found.ci_low for found in (clustered, plain) if found.ci_high and found.ci_low]
    totals = np.array(values).reshape(40, 5).mean(axis=1)
    normal = 2 * stats.t.ppf(0.975, 39) * totals.std(ddof=1) / math.sqrt(40)
    assert sizes[0] == pytest.approx(normal, rel=0.1) and sizes[0] > 1.8 * sizes[1]
    base = [4.0] * 200
    ratio = paired_ratio(values, base, keys)
    assert ratio.estimate == pytest.approx(np.mean(values) / 4)
    assert ratio.ci_low == pytest.approx(clustered.ci_low / 4) and ratio.ci_high == pytest.approx(clustered.ci_high / 4)
    assert mean([2.0] * 6, "aabbcc") == Estimate(2.0, 2.0, 2.0, 6, 0, 3, 1)


def test_sign_flips_equal_all_combinations_and_mcnemar() -> None:
    for sums in ([3, -1, 2], [1, 1, 1, -2, 5, 0], [4], [], [2, -2]):
        totals = [
            sum(s * v for s, v in zip(signs, sums, strict=True))
            for signs in itertools.product((1, -1), repeat=len(sums))
        ]
        expected = sum(abs(total) >= abs(sum(sums)) for total in totals) / len(totals)
        assert sign_flip_p(sums) == pytest.approx(expected)
    for first, second in ((1, 8), (7, 7), (0, 5), (12, 3)):
        rows = [1] * first + [-1] * second + [0] * 9
        by_row = paired_p(rows, list(range(len(rows))), [""] * len(rows))
        assert by_row == pytest.approx(stats.binomtest(first, first + second, 0.5).pvalue, rel=1e-12)


def test_paired_test_of_clusters_does_not_count_one_question_five_times() -> None:
    rows, keys = [1] * 10 + [0] * 10, [i // 5 for i in range(20)]
    assert paired_p(rows, keys, [""] * 20) == pytest.approx(2 / 2**2)  # two clusters of five, not ten discordant rows
    assert paired_p(rows, list(range(20)), [""] * 20) == pytest.approx(2 / 2**10)


def test_paired_test_over_seeds_is_students() -> None:
    values = [1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0]
    keys, seeds = [0, 1, 2, 3] * 3, [s for s in range(3) for _ in range(4)]
    found = spread(np.array(values) - 8 / 12, 12, groups([True] * 12, keys, seeds))
    assert found is not None
    expected = 2 * stats.t.sf(8 / 12 / math.sqrt(found.variance), found.df)
    assert paired_p(values, keys, seeds) == pytest.approx(expected)
    assert paired_p([0] * 12, keys, seeds) == 1.0


def test_average_adds_the_distances_of_rates_over_the_same_seeds() -> None:
    keys, seeds = list(range(20)) * 2, [0] * 20 + [1] * 20
    found = [rate([i % k == 0 for i in range(40)], keys, seeds) for k in (3, 5)]
    average = average_rate([("a", found[0]), ("b", found[1])])
    assert average.ci_high == pytest.approx(
        average.estimate + sum((f.ci_high or 0) - (f.estimate or 0) for f in found) / 2
    )
    assert (average.n, average.clusters, average.seeds) == (80, 40, 2)


def _shares(rng: np.random.Generator, clusters: int, p: float, icc: float, runs: int) -> np.ndarray:
    """Draw the number of successes of each cluster of five, [runs, clusters], from a beta-binomial distribution."""
    if not icc:
        return rng.binomial(5, p, (runs, clusters))
    scale = (1 - icc) / icc
    return rng.binomial(5, rng.beta(p * scale, (1 - p) * scale, (runs, clusters)))


@pytest.mark.parametrize("clusters", [30, 60, 240])
def test_coverage_of_clustered_rates_is_near_its_level(clusters: int) -> None:
    """Distinct totals of a run decide its interval, so each of them is computed once."""
    rng, keys, runs = np.random.default_rng(clusters), np.repeat(np.arange(clusters), 5), {30: 900, 60: 600, 240: 250}
    for icc in (0.0, 0.2, 0.5):
        covered = []
        for p in (0.1, 0.3, 0.5):
            for hits in _shares(rng, clusters, p, icc, runs[clusters]):
                outcomes = (np.arange(5) < hits[:, None]).ravel()
                low, high = clustered_wilson(outcomes.astype(float), groups([True] * len(keys), keys))
                covered.append(low <= p <= high)
        assert 0.93 <= np.mean(covered) <= 0.97, (clusters, icc, np.mean(covered))
