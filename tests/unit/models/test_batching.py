"""Batches by length: the limits, and cuts with the least padding."""

from __future__ import annotations

from itertools import combinations

import pytest

from rebend.models.batching import batches_by_length, cuts


def test_batches_have_the_longest_texts_first_and_all_of_them():
    assert batches_by_length([3, 9, 5, 9, 1], 2) == [[1, 3], [2, 0], [4]]
    assert batches_by_length([], 2) == []


def test_a_batch_has_at_most_this_number_of_positions_with_its_padding():
    lengths = [5, 40, 7, 10, 9, 3, 3]
    # 40 is longer than the limit; 10 + 9 are 20 positions; 7 + 5 + 3 would be 21
    assert batches_by_length(lengths, 4, most=20) == [[1], [3, 4], [2, 0], [5, 6]]


def test_a_batch_is_cut_where_padding_costs_more_than_a_pass():
    lengths = [30, 600, 31, 610, 29]
    assert batches_by_length(lengths, 5) == [[3, 1], [2, 0, 4]]
    assert batches_by_length([30, 40, 50, 60], 4) == [[3, 2, 1, 0]]  # 60 positions of padding


@pytest.mark.parametrize("cost", [0, 3, 10, 1000])
@pytest.mark.parametrize("lengths", [[9], [20, 20, 9, 8, 8, 2, 1], [50, 30, 29, 28, 27, 5], [7] * 5])
def test_the_cuts_are_the_cheapest_of_all(lengths, cost):
    def price(parts):
        return sum(cost + (end - start) * lengths[start] for start, end in parts)

    n = len(lengths)
    every = [
        list(zip((0, *places), (*places, n), strict=True)) for k in range(n) for places in combinations(range(1, n), k)
    ]
    found = cuts(lengths, cost)
    assert found in every
    assert price(found) == min(price(parts) for parts in every)


def test_equal_lengths_are_not_cut():
    assert cuts([5] * 4, cost=0) == [(0, 4)]
    assert cuts([], cost=0) == []
