"""Statistics of a file of verdicts; length control against scikit-learn, statsmodels and data with a known win rate."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from rebend.evaluation.intervals import rate
from rebend.evaluation.judges.win_rate.statistics import _fit, length_controlled, win_rates
from rebend.evaluation.judges.win_rate.verdict import STATES
from tests.helpers.win_rate_verdicts import (
    ERROR,
    EVEN,
    FLIP,
    LOSE,
    MISSING,
    REFUSED,
    SHORT_WIN,
    WIN,
    verdict_line,
    verdict_table,
)


def drawn(n: int, at_equal: float, slope: float, shift: float, seed: int) -> tuple[list[bool], list[float]]:
    """Return wins of a judge that prefers longer answers, and the length differences."""
    rng = np.random.default_rng(seed)
    d = rng.normal(shift, 50, size=n)
    p = 1 / (1 + np.exp(-(np.log(at_equal / (1 - at_equal)) + slope * np.tanh(d / d.std()))))
    return list(rng.random(n) < p), list(d)


def test_ties_are_no_wins_and_unjudged_rows_are_left_out() -> None:
    found = win_rates(verdict_table(WIN, WIN, LOSE, FLIP, EVEN, REFUSED, ERROR, MISSING))
    assert found.states == dict(zip(STATES, [2, 2, 1, 1, 0, 0, 1, 1], strict=True))
    assert found.win_rate.estimate == found.win_rate_bootstrap.estimate == 0.4 and found.win_rate.n == 5
    assert found.half_tie_rate.estimate == 0.6 and found.win_rate.not_scored == 3
    assert (found.tokens_in, found.tokens_out) == (700, 70)


def test_ties_of_two_orders_that_differ_are_counted() -> None:
    found = win_rates(verdict_table(WIN, FLIP, FLIP, EVEN, REFUSED))
    assert found.flip_rate.estimate == 0.5 and found.flip_rate.n == 4
    assert (found.states["tie"], found.ties_of_orders) == (3, 2)


def test_win_in_one_order_and_tie_in_the_other_is_a_flip() -> None:
    found = win_rates(verdict_table(verdict_line("tie", [8, 6], [5, 6], 0)))
    assert found.flip_rate.estimate == 1.0 and found.ties_of_orders == 1


def test_flip_rate_of_a_proxy_is_unknown() -> None:
    found = win_rates(verdict_table(verdict_line("win", [2.0], [1.0], 1)))
    assert found.flip_rate.n == 0 and found.flip_rate.estimate is None


def test_longer_wins_is_over_decided_rows_of_unequal_length() -> None:
    found = win_rates(verdict_table(WIN, WIN, LOSE, SHORT_WIN, FLIP, EVEN, REFUSED))
    assert (found.longer_wins.estimate, found.longer_wins.n) == (0.75, 4)
    assert found.response_longer.estimate == 0.5 and found.response_longer.n == 6
    assert found.length_controlled.n == 6 and found.length_slope is not None and found.length_slope > 0


def test_bootstrap_depends_on_the_seed_only() -> None:
    lines = verdict_table(*[WIN, LOSE, EVEN] * 9)
    assert win_rates(lines, 1) == win_rates(lines, 1)
    first = win_rates(lines, 1).half_tie_rate
    assert first.ci_low is not None and first.ci_high is not None and first.ci_low < 0.5 < first.ci_high


def test_rates_without_judged_rows_are_unknown() -> None:
    found = win_rates(verdict_table(REFUSED, MISSING))
    for name in ("win_rate", "win_rate_bootstrap", "half_tie_rate", "flip_rate", "length_controlled", "longer_wins"):
        assert getattr(found, name).estimate is None, name


@pytest.mark.parametrize("seed", range(5))
def test_estimate_and_slope_equal_scikit_learns_logistic_regression(seed: int) -> None:
    wins, d = drawn(80, 0.4, 1.5, 30, seed)
    result, slope = length_controlled(wins, d, 0)
    x = np.tanh(np.array(d) / np.std(d))[:, None]
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x, wins)
    assert slope == pytest.approx(oracle.coef_[0, 0], abs=1e-5)
    assert result.estimate == pytest.approx(oracle.predict_proba([[0.0]])[0, 1], abs=1e-6)


def test_estimate_and_slope_equal_statsmodels_penalised_fit() -> None:
    wins, d = drawn(120, 0.4, 1.5, 30, 7)
    result, slope = length_controlled(wins, d, 0)
    design = sm.add_constant(np.tanh(np.array(d) / np.std(d)))
    penalty = np.array([0.0, 1 / len(wins)])  # of b² / 2 in the mean log-likelihood; the intercept is free
    fit = sm.GLM(np.array(wins, dtype=float), design, family=sm.families.Binomial()).fit_regularized(
        alpha=penalty, L1_wt=0.0, cnvrg_tol=1e-12, maxiter=2000
    )
    intercept, weight = fit.params
    assert slope == pytest.approx(weight, abs=1e-4)
    assert result.estimate == pytest.approx(1 / (1 + np.exp(-intercept)), abs=1e-5)


def test_simultaneous_fits_of_resamples_equal_scikit_learns_weighted_fits() -> None:
    wins, d = drawn(60, 0.4, 1.5, 30, 3)
    x, y = np.tanh(np.array(d) / np.std(d)), np.array(wins, dtype=float)
    weights = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), size=40).astype(float)
    rates, slopes = _fit(x, y, weights)
    for weight, rate_at_equal, slope in zip(weights, rates, slopes, strict=True):
        oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x[:, None], y, sample_weight=weight)
        assert slope == pytest.approx(oracle.coef_[0, 0], abs=1e-5)
        assert rate_at_equal == pytest.approx(oracle.predict_proba([[0.0]])[0, 1], abs=1e-6)


def test_length_preference_of_the_judge_is_removed() -> None:
    wins, d = drawn(4000, 0.3, 2.0, 60, 0)  # most responses are longer
    result, slope = length_controlled(wins, d, 0)
    assert np.mean(wins) > 0.5 and slope is not None and slope > 1.5
    assert result.estimate == pytest.approx(0.3, abs=0.04)
    assert result.ci_low is not None and result.ci_high is not None and result.ci_low < 0.3 < result.ci_high


def test_win_rate_is_unchanged_if_length_has_no_effect() -> None:
    wins, d = drawn(4000, 0.4, 0.0, 20, 1)
    result, _ = length_controlled(wins, d, 0)
    assert result.estimate == pytest.approx(np.mean(wins), abs=0.02)


def test_coverage_of_the_interval_is_near_its_level() -> None:
    covered = 0
    for seed in range(60):
        result, _ = length_controlled(*drawn(150, 0.4, 1.0, 20, seed), seed)
        assert result.ci_low is not None and result.ci_high is not None
        covered += result.ci_low <= 0.4 <= result.ci_high
    assert covered >= 52


def test_rows_without_verdict_or_length_are_not_scored() -> None:
    wins, d = drawn(50, 0.5, 1.0, 10, 0)
    plain, _ = length_controlled(wins, d, 0)
    more, _ = length_controlled([*wins, None, True], [*d, 3.0, None], 0)
    assert (more.estimate, more.n, more.not_scored) == (plain.estimate, 50, 2)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = drawn(50, 0.5, 1.0, 10, 0)
    assert length_controlled(*data, 3) == length_controlled(*data, 3) != length_controlled(*data, 4)


@pytest.mark.parametrize("d", [[1.0, 2.0, 3.0], [-1.0, -2.0, -5.0], []])
def test_estimate_is_unknown_if_all_responses_are_longer_or_all_shorter(d: list[float]) -> None:
    result, slope = length_controlled([True, False, True][: len(d)], d, 0)
    assert (result.estimate, result.ci_low, slope, result.n) == (None, None, None, len(d))


@pytest.mark.parametrize("won", [True, False])
def test_equal_outcomes_give_the_rate_with_wilsons_interval(won: bool) -> None:
    result, slope = length_controlled([won] * 4, [-1.0, 1.0, 2.0, 0.0], 0)
    plain = rate([won] * 4)
    assert (result.estimate, result.ci_low, result.ci_high, slope) == (float(won), plain.ci_low, plain.ci_high, 0.0)
    assert result.ci_low != result.ci_high


def test_slope_is_finite_if_length_separates_the_outcomes() -> None:
    d = [float(x) for x in range(-20, 21) if x]
    result, slope = length_controlled([x > 0 for x in d], d, 0)
    assert slope is not None and 1 < slope < 50 and result.estimate == pytest.approx(0.5, abs=0.01)


def test_equal_lengths_give_the_plain_win_rate() -> None:
    result, slope = length_controlled([True, True, False, False], [0.0] * 4, 0)
    assert result.estimate == pytest.approx(0.5) and slope == 0.0
