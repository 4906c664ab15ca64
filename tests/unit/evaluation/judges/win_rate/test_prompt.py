"""Prompts of the judge openai, and the parsing of its replies."""

from __future__ import annotations

import json

import pytest

from rebend.evaluation.judges.win_rate.prompt import (
    FORMS,
    LEGACY,
    RESPONSE_FORMAT,
    STRUCTURED,
    read_marks,
    read_verdict,
    user_text,
)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("8 7", (8, 7)),
        ("8, 7\nbecause", (8, 7)),
        ("**10 / 9.5**\n", (10, 9.5)),
        ("\n\n6 6", (6, 6)),
        ("Answer 1: 8\nAnswer 2: 7", None),
        ("8", None),
        ("8 7 6", None),
        ("87", None),
        ("-8 7", None),
        ("8 70", None),
    ],
)
def test_read_marks_reads_the_first_line_only(text: str, marks: tuple[float, float] | None) -> None:
    assert read_marks(text) == marks


def test_truncated_reply_needs_a_complete_first_line() -> None:
    assert read_marks("8 10\nThe fir", truncated=True) == (8, 10)
    assert read_marks("8 10", truncated=True) is None


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('{"reasons": "r", "verdict": "answer 1"}', (1, 0)),
        ('{"verdict": "answer 2"}', (0, 1)),
        ('{"reasons": "", "verdict": "tie"}', (0.5, 0.5)),
        ('```json\n{"verdict": "Answer 1 "}\n```', (1, 0)),
        ('  {"verdict": "tie"}\n', (0.5, 0.5)),
        ('{"verdict": "answer 3"}', None),
        ('{"verdict": 1}', None),
        ('{"verdict": null}', None),
        ('{"reasons": "answer 1 is better"}', None),
        ('["answer 1"]', None),
        ('"answer 1"', None),
        ("answer 1", None),
        ("", None),
        ('The verdict: {"verdict": "answer 1"}', None),
        ('{"verdict": "answer 1"} or {"verdict": "answer 2"}', None),
        ('{"reasons": "first", "verdict": "answ', None),
    ],
)
def test_read_verdict_returns_marks_or_none(text: str, marks: tuple[float, float] | None) -> None:
    assert read_verdict(text) == marks


def test_read_verdict_accepts_all_verdicts_of_the_response_format() -> None:
    schema = RESPONSE_FORMAT["json_schema"]["schema"]
    for verdict in schema["properties"]["verdict"]["enum"]:
        assert read_verdict(json.dumps({"reasons": "r", "verdict": verdict})) is not None
        assert verdict in STRUCTURED.system
    assert set(schema["required"]) == set(schema["properties"]) and schema["additionalProperties"] is False


def test_user_text_contains_both_answers_in_order() -> None:
    text = user_text("p?", "one", "two")
    assert text.index("p?") < text.index("one") < text.index("two")
    assert user_text("p?", "two", "one") != text


def test_forms_differ_in_version_and_system_message() -> None:
    assert FORMS == {"legacy": LEGACY, "structured": STRUCTURED}
    assert LEGACY.version != STRUCTURED.version and LEGACY.system != STRUCTURED.system
    assert "1 to 10" in LEGACY.system and LEGACY.response_format is None
