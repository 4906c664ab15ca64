"""The two forms of the question, and what is read from replies to the structured one (marks: test_win_rate)."""

from __future__ import annotations

import json

import pytest

from rebend.evaluation.judges.win_rate.prompt import FORMS, LEGACY, RESPONSE_FORMAT, STRUCTURED, read_verdict, user_text


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
def test_a_verdict_is_read_or_it_is_nothing(text: str, marks: tuple[float, float] | None) -> None:
    assert read_verdict(text) == marks


def test_the_shape_that_is_asked_for_is_the_shape_that_is_read() -> None:
    schema = RESPONSE_FORMAT["json_schema"]["schema"]
    for verdict in schema["properties"]["verdict"]["enum"]:
        assert read_verdict(json.dumps({"reasons": "r", "verdict": verdict})) is not None
        assert verdict in STRUCTURED.system
    assert set(schema["required"]) == set(schema["properties"]) and schema["additionalProperties"] is False


def test_both_answers_stand_in_the_request_in_their_order() -> None:
    text = user_text("p?", "one", "two")
    assert text.index("p?") < text.index("one") < text.index("two")
    assert user_text("p?", "two", "one") != text


def test_forms_differ_in_version_and_words() -> None:
    assert FORMS == {"legacy": LEGACY, "structured": STRUCTURED}
    assert LEGACY.version != STRUCTURED.version and LEGACY.system != STRUCTURED.system
    assert "1 to 10" in LEGACY.system and LEGACY.response_format is None
