"""The win rate at equal length: against scikit-learn, on data whose truth is known, and where it cannot be known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rebend.evaluation.intervals import rate
from rebend.evaluation.judges.win_rate.statistics import length_controlled


def drawn(n: int, at_equal: float, slope: float, shift: float, seed: int) -> tuple[list[bool], list[float]]:
    """Wins of a judge that likes length, and the length differences."""
    rng = np.random.default_rng(seed)
    d = rng.normal(shift, 50, size=n)
    p = 1 / (1 + np.exp(-(np.log(at_equal / (1 - at_equal)) + slope * np.tanh(d / d.std()))))
    return list(rng.random(n) < p), list(d)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_scikit_learns(seed: int) -> None:
    wins, d = drawn(80, 0.4, 1.5, 30, seed)
    found, slope = length_controlled(wins, d, 0)
    x = np.tanh(np.array(d) / np.std(d))[:, None]
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x, wins)
    assert slope == pytest.approx(oracle.coef_[0, 0], abs=1e-5)
    assert found.estimate == pytest.approx(oracle.predict_proba([[0.0]])[0, 1], abs=1e-6)


def test_a_judge_that_likes_length_is_seen_through() -> None:
    wins, d = drawn(4000, 0.3, 2.0, 60, 0)  # most responses are longer
    found, slope = length_controlled(wins, d, 0)
    assert np.mean(wins) > 0.5 and slope is not None and slope > 1.5
    assert found.estimate == pytest.approx(0.3, abs=0.04)
    assert found.ci_low is not None and found.ci_high is not None and found.ci_low < 0.3 < found.ci_high


def test_a_judge_blind_to_length_leaves_the_win_rate_as_it_is() -> None:
    wins, d = drawn(4000, 0.4, 0.0, 20, 1)
    found, _ = length_controlled(wins, d, 0)
    assert found.estimate == pytest.approx(np.mean(wins), abs=0.02)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        found, _ = length_controlled(*drawn(150, 0.4, 1.0, 20, seed), seed)
        assert found.ci_low is not None and found.ci_high is not None
        held += found.ci_low <= 0.4 <= found.ci_high
    assert held >= 52


def test_rows_that_were_not_judged_are_in_no_part() -> None:
    wins, d = drawn(50, 0.5, 1.0, 10, 0)
    plain, _ = length_controlled(wins, d, 0)
    more, _ = length_controlled([*wins, None, True], [*d, 3.0, None], 0)
    assert (more.estimate, more.n, more.not_scored) == (plain.estimate, 50, 2)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = drawn(50, 0.5, 1.0, 10, 0)
    assert length_controlled(*data, 3) == length_controlled(*data, 3) != length_controlled(*data, 4)


@pytest.mark.parametrize("d", [[1.0, 2.0, 3.0], [-1.0, -2.0, -5.0], []])
def test_equal_length_is_not_known_where_nothing_was_seen_on_one_side(d: list[float]) -> None:
    found, slope = length_controlled([True, False, True][: len(d)], d, 0)
    assert (found.estimate, found.ci_low, slope, found.n) == (None, None, None, len(d))


@pytest.mark.parametrize("won", [True, False])
def test_one_outcome_alone_is_the_rate_and_its_interval_has_a_width(won: bool) -> None:
    found, slope = length_controlled([won] * 4, [-1.0, 1.0, 2.0, 0.0], 0)
    plain = rate([won] * 4)
    assert (found.estimate, found.ci_low, found.ci_high, slope) == (float(won), plain.ci_low, plain.ci_high, 0.0)
    assert found.ci_low != found.ci_high


def test_a_judge_that_always_takes_the_longer_one_gives_a_finite_slope() -> None:
    d = [float(x) for x in range(-20, 21) if x]
    found, slope = length_controlled([x > 0 for x in d], d, 0)
    assert slope is not None and 1 < slope < 50 and found.estimate == pytest.approx(0.5, abs=0.01)


def test_equal_lengths_everywhere_give_the_win_rate() -> None:
    found, slope = length_controlled([True, True, False, False], [0.0] * 4, 0)
    assert found.estimate == pytest.approx(0.5) and slope == 0.0
