"""Accuracy on held-out pairs: ties, its interval, and how much of it is length."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rebend.models.rewards.held_out import accuracy, held_out_facts, mean_loss, wilson


def test_accuracy_counts_a_tie_as_half():
    assert accuracy(np.array([0.2, -0.1, 0.0, 3.0])) == 2.5 / 4


def test_mean_loss_is_that_of_bradley_and_terry():
    assert mean_loss(np.array([0.0, np.log(3.0)])) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)


@pytest.mark.parametrize(("hits", "n"), [(104, 200), (130, 200), (0, 7), (7, 7)])
def test_interval_is_that_of_wilson(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_length_bias_is_reported():
    found = np.array([1.0, 2.0, -1.0, -2.0, 0.5])
    facts = held_out_facts(found, [10, 20, -10, 5, 0])
    assert facts["held_out_accuracy"] == 0.6
    assert facts["held_out_longer_wins"] == 0.7  # three longer, one shorter, one tie
    assert facts["held_out_accuracy_rejected_longer"] == {"accuracy": 0.0, "pairs": 1}
    assert facts["held_out_accuracy_rejected_shorter"] == {"accuracy": 0.6667, "pairs": 3}
    assert facts["held_out_length_correlation"] == round(float(np.corrcoef(found, [10, 20, -10, 5, 0])[0, 1]), 4)


def test_equal_rewards_have_no_correlation_and_are_at_chance():
    facts = held_out_facts(np.zeros(50), [1] * 50)
    assert facts["held_out_length_correlation"] is None and facts["held_out_at_chance"]
    assert facts["held_out_accuracy_rejected_longer"] == {"accuracy": None, "pairs": 0}


@pytest.mark.parametrize(("hits", "at_chance"), [(104, True), (115, False), (80, True)])
def test_chance_is_an_interval_that_is_not_above_one_half(hits, at_chance):
    found = np.array([1.0] * hits + [-1.0] * (200 - hits))
    facts = held_out_facts(found, list(range(200)))
    assert facts["held_out_at_chance"] is at_chance
    assert (facts["held_out_accuracy_interval"][0] <= 0.5) is at_chance
