"""Krippendorff's alpha: a published example, its limits, and missing verdicts."""

from __future__ import annotations

import random

import pytest

from rebend.evaluation.agreement import krippendorff_alpha


def test_alpha_of_a_published_example_with_missing_verdicts() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, nominal data."""
    lines = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    verdicts = [[None if word == "." else word for word in line.split()] for line in lines]
    assert krippendorff_alpha(verdicts) == pytest.approx(0.743, abs=0.0005)


def test_alpha_of_two_judges_equals_the_formula_for_nominal_data() -> None:
    """Alpha = 1 - (n - 1) * disagreeing pairs / pairs of different words, counted by hand."""
    first, second = "aabbc", "aabcc"
    n, pooled = 10, first + second
    observed = 2 * sum(x != y for x, y in zip(first, second, strict=True))
    expected = sum(pooled.count(x) * pooled.count(y) for x in "abc" for y in "abc" if x != y)
    assert krippendorff_alpha([list(first), list(second)]) == pytest.approx(1 - (n - 1) * observed / expected)


def test_alpha_is_one_for_full_agreement_and_near_zero_for_random_verdicts() -> None:
    draw = random.Random(0)
    words = [draw.choice(["harmful", "harmless", "refusal"]) for _ in range(3000)]
    assert krippendorff_alpha([words] * 3) == pytest.approx(1.0)
    shuffled = [draw.sample(words, len(words)) for _ in range(3)]
    assert krippendorff_alpha(shuffled) == pytest.approx(0.0, abs=0.03)


def test_rows_with_a_single_verdict_do_not_count() -> None:
    full = [["a", "b", "a", "b"], ["a", "b", "b", "b"]]
    longer = [[*full[0], "c", None], [*full[1], None, None]]
    assert krippendorff_alpha(longer) == krippendorff_alpha(full)


@pytest.mark.parametrize("verdicts", [[], [[], []], [["a", None], [None, "b"]], [["a", "a"], ["a", "a"]]])
def test_alpha_is_unknown_without_two_different_words_on_shared_rows(verdicts: list[list[str | None]]) -> None:
    assert krippendorff_alpha(verdicts) is None


def test_lists_of_different_lengths_raise_value_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        krippendorff_alpha([["a", "b"], ["a"]])
