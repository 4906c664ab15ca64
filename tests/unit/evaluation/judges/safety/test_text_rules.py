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
    ],
)
def test_empty_and_degenerate_text_is_incoherent(text: str) -> None:
    assert is_incoherent(text)
    verdict = refusal_verdict(row(text))
    assert (verdict.word, verdict.answered) == ("incoherent", False)


@pytest.mark.parametrize("text", ["Yes.", "4 is two plus two", ANSWER, "no no no", "Да, конечно.", "当然可以"])
def test_short_and_foreign_answers_are_coherent(text: str) -> None:
    assert not is_incoherent(text)
