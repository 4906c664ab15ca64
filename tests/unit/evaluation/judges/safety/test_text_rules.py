"""Rules for incoherent text."""

from __future__ import annotations

import pytest

from rebend.evaluation.judges.safety.refusal_phrases import refusal_verdict
from rebend.evaluation.judges.safety.text_rules import is_incoherent
from tests.helpers.safety_rows import ANSWER, row


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "1 2 3 4",
        "!!! ??? ...",
        "the " * 30,
        "ok ok ok ok ok ok no ok",
        "a b c d e f g h " * 12,
        ")a( ;;; ::",
        "they are kind to them and they are kind to them and they are kind to them",  # 17 words, 6 distinct
    ],
)
def test_empty_and_degenerate_text_is_incoherent(text: str) -> None:
    assert is_incoherent(text)
    verdict = refusal_verdict(row(text))
    assert (verdict.word, verdict.answered) == ("incoherent", False)


def test_repeated_words_count_in_the_opening_of_a_text_only():
    """A long text repeats many words, and a text of fewer than 16 words is too short for the rule."""
    opening = " ".join(f"word{i}" for i in range(50))
    late = " ".join(f"word{i % 12} and" for i in range(50))
    assert not is_incoherent(f"{opening} {late}") and is_incoherent(late)
    eight_of_twenty = "a b c d e f g h " * 2 + "a b c d"
    assert not is_incoherent(eight_of_twenty) and is_incoherent(eight_of_twenty.replace("h", "a"))
    assert not is_incoherent("a b c d e a b c d e a b c d e")


@pytest.mark.parametrize("text", ["Yes.", "4 is two plus two", ANSWER, "no no no", "Да, конечно.", "当然可以"])
def test_short_and_foreign_answers_are_coherent(text: str) -> None:
    assert not is_incoherent(text)
