"""Repetition of answers, by hand."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

from rebend.evaluation.repetition import repetition, score_repetition
from rebend.io.schemas import ATTEMPT_SCORES, COMPLETIONS, RESPONSES, SCORES


def test_repetition_equals_the_share_by_hand() -> None:
    # a b a b a b a: abab baba abab baba, two of four distinct
    assert repetition("a b a b a b a") == 0.5
    # seven equal words: one of four distinct
    assert repetition("go go go go go go go") == 0.75


@pytest.mark.parametrize("text", ["one two three four five six", "one two three", "no", "a b c a b c"[:7]])
def test_text_without_a_repeated_sequence_of_four_words_scores_zero(text: str) -> None:
    assert repetition(text) == 0.0


def test_empty_and_missing_answers_are_not_scored_and_the_prefill_does_not_count() -> None:
    facts = {"n_tokens": 1, "finish": "eos", "edit_norm": 0.0}
    lines = [{"row_id": str(i), "response": text, **facts} for i, text in enumerate((None, " ", "a b a b a b a"))]
    scores = score_repetition(pa.Table.from_pylist(lines, RESPONSES))
    assert scores.schema == SCORES
    assert scores["score"].to_pylist() == [None, None, 0.5]
    assert scores["not_scored"].to_pylist() == ["no response", "the answer is empty", None]
    attacked = {"row_id": "0", "response": "go go go go go go go a b a b a b a", "prefill": "go go go go go go go"}
    scores = score_repetition(pa.Table.from_pylist([{**attacked, **facts, "attempt": 3}], COMPLETIONS))
    assert scores.schema == ATTEMPT_SCORES
    assert (scores["score"].to_pylist(), scores["attempt"].to_pylist()) == ([0.5], [3])


def test_module_does_not_import_torch() -> None:
    code = "import sys, rebend.evaluation.repetition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
