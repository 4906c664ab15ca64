"""Verdicts of two orders."""

from __future__ import annotations

import pytest

from rebend.evaluation.judges.win_rate.verdict import combine


@pytest.mark.parametrize(
    ("orders", "whole"), [("win win", "win"), ("lose lose", "lose"), ("win lose", "tie"), ("win tie", "tie")]
)
def test_combine_returns_a_tie_if_the_orders_differ(orders: str, whole: str) -> None:
    assert combine(*orders.split()) == whole
