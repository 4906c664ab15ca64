"""Refusals from a file, and those that come with the repository."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from rebend.errors import DataError
from rebend.evaluation.judges.safety.text_rules import without_harm
from rebend.evaluation.sampled_pairs.refusals import dealt, read_refusals

OWN = Path(__file__).parents[4] / "resources/data/refusals.csv"


def test_own_refusals_are_many_different_ones_and_the_rules_know_them_as_refusals() -> None:
    refusals = read_refusals(OWN)
    assert len(refusals) >= 60
    assert {without_harm({"response": text, "prefill": ""}) for text in refusals} == {"refusal"}
    lengths = [len(text.split()) for text in refusals]
    assert min(lengths) < 8 and max(lengths) > 30
    assert max(Counter(" ".join(text.split()[:3]) for text in refusals).values()) <= 12


def test_refusals_are_read_once_each(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text('refusal,note\n"No, never.",a\nI will not.,b\n"No, never. ",c\n')
    assert read_refusals(file) == ["No, never.", "I will not."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("refusals\nNo.\n", r"own\.csv:2: column 'refusal' is missing. Found: refusals.*Did you mean"),
        ("refusal,note\nNo.,a\n,b\n", r"own\.csv:3: 'refusal' is None"),
        ("refusal\n", "holds no refusals"),
    ],
)
def test_damaged_file_is_an_error_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_refusals(file)


def test_refusals_are_dealt_evenly_in_another_order_each_time() -> None:
    cards = [str(n) for n in range(9)]
    drawn = list(islice(dealt(cards, 0), 27))
    hands = [drawn[start : start + 9] for start in (0, 9, 18)]
    assert all(sorted(hand) == cards for hand in hands)
    assert hands[0] != hands[1] != hands[2] and hands[0] != cards
    assert list(islice(dealt(cards, 0), 27)) == drawn != list(islice(dealt(cards, 1), 27))
