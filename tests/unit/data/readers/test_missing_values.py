"""Missing values are absent in every format, values of another type are errors with file, line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rebend.config.datasets import DatasetBlock
from rebend.data.datasets import prepare_dataset
from rebend.data.readers.raw import SourceRow, read_rows
from rebend.data.readers.registry import load_reader, load_readers
from rebend.data.readers.rows import UnusableRowError
from rebend.errors import DataError
from rebend.evaluation.capability_questions import read_questions
from tests.unit.data.test_readers import CASES

NAN = float("nan")
# Columns of the cases that hold no text: lists, labels that may be numbers, and words that are checked against a list
NOT_TEXT = {"messages", "test_cases", "labels", "adversarial", "harmful", "data_type", "label", "id", "prompt_type"}
LABELS = {"prompt_harm_label", "response_harm_label", "response_refusal_label", "FunctionalCategory"}


def text_columns() -> list[tuple[str, str, dict[str, Any], str]]:
    """Return reader, kind, row and column, for every text column that a case of `CASES` has and its reader reads."""
    found = []
    for name, kind, row, _ in CASES:
        reader = load_readers()[name]
        declared = {part for column in reader.columns[kind] for part in column.split("|")}
        read = declared | set(reader.optional.get(kind, ())) | set(reader.reference)
        dialogues = {"adversarial"} if name in ("wildjailbreak", "do_anything_now") else set()
        unread = {"rejected"} if kind in ("prompts", "chat") else set()
        for column in sorted((read & set(row)) - (NOT_TEXT - dialogues) - LABELS - {"BehaviorID"} - unread):
            found.append((name, kind, row, column))
    return found


COLUMNS = text_columns()


def test_columns_under_test_are_of_every_reader_with_text_columns() -> None:
    assert {name for name, *_ in COLUMNS} == set(load_readers()) - {"world", "ultrachat", "harmbench_cases"}
    assert len(COLUMNS) > 30


@pytest.mark.parametrize(("reader", "kind", "row", "column"), COLUMNS)
@pytest.mark.parametrize("missing", [None, NAN])
def test_no_reader_writes_a_missing_value_as_text(reader: str, kind: str, row: Any, column: str, missing: Any) -> None:
    try:
        converted = load_reader(reader).convert(kind, SourceRow(1, "file:1", {**row, column: missing}))
    except UnusableRowError as reason:
        assert column in str(reason) or "ContextString" in str(reason)
        return
    texts = json.dumps(converted).lower()
    assert "nan" not in texts.replace('"pair"', "") and '"none"' not in texts


@pytest.mark.parametrize(("reader", "kind", "row", "column"), COLUMNS)
@pytest.mark.parametrize("value", [7, 1.5, True, ["x"], {"a": "x"}, b"x"])
def test_value_that_is_no_text_is_an_error_with_its_column(
    reader: str, kind: str, row: Any, column: str, value: Any
) -> None:
    with pytest.raises(DataError, match=rf"^some.jsonl:4: '{column}' is .*; text is expected"):
        load_reader(reader).convert(kind, SourceRow(4, "some.jsonl:4", {**row, column: value}))


JSON_LINES = '{"prompt": "a", "target": NaN}\n{"prompt": "b", "target": null}\n{"prompt": "c", "target": "t"}\n'
# The two readings of "None" in a cell cannot be told apart; programs that write tables mean a missing value.
CSV = 'prompt,target\na,\nb,NaN\n"c",t\nd,None\ne,null\nf,nan\n'


def test_missing_values_of_text_formats_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(JSON_LINES)
    assert [row.row["target"] for row in read_rows(tmp_path / "a.jsonl")] == [None, None, "t"]
    (tmp_path / "a.json").write_text('[{"target": NaN}, {"target": {"deep": [NaN, 1.5, "nan"]}}]')
    assert [row.row["target"] for row in read_rows(tmp_path / "a.json")] == [None, {"deep": [None, 1.5, "nan"]}]
    (tmp_path / "a.csv").write_text(CSV)
    assert [row.row["target"] for row in read_rows(tmp_path / "a.csv")] == [None, None, "t", None, None, None]


def test_missing_values_of_parquet_are_none(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["a", None, "c"], "target": [NAN, NAN, NAN], "number": [1.0, NAN, 2.0]})
    frame.to_parquet(tmp_path / "a.parquet")
    rows = [row.row for row in read_rows(tmp_path / "a.parquet")]
    assert rows[0] == {"prompt": "a", "target": None, "number": 1.0}
    assert rows[1] == {"prompt": None, "target": None, "number": None}
    nested = pa.table({"turns": [[{"role": "user", "score": NAN}]]})
    pq.write_table(nested, tmp_path / "b.parquet")
    assert next(read_rows(tmp_path / "b.parquet")).row == {"turns": [{"role": "user", "score": None}]}


def block(**settings: Any) -> DatasetBlock:
    return DatasetBlock(**{"kind": "evaluation", "reader": "table", "source": {"local": "x"}, **settings})


def test_table_of_pandas_with_missing_targets_has_empty_targets(tmp_path: Path) -> None:
    pd.DataFrame({"prompt": ["p", "q"], "harmful": [1.0, 0.0], "target": [NAN, NAN]}).to_parquet(tmp_path / "a.parquet")
    rows = prepare_dataset(block(), tmp_path / "a.parquet").table.to_pylist()
    assert [(row["harmful"], row["target"]) for row in rows] == [(True, ""), (False, "")]


def test_row_without_a_prompt_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": NaN, "harmful": 1}\n{"prompt": "p", "harmful": 1}\n')
    prepared = prepare_dataset(block(), tmp_path / "a.jsonl")
    assert prepared.table.num_rows == 1 and prepared.dropped == {"no prompt": 1}


def test_missing_value_is_never_selected(tmp_path: Path) -> None:
    rows = '{"prompt": "p", "split": null}\n{"prompt": "q", "split": "None"}\n{"prompt": "r", "split": 1}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    for word, prompt in (("None", "q"), ("1", "r")):
        prepared = prepare_dataset(block(kind="prompts", only={"split": word}), tmp_path / "a.jsonl")
        assert [row["messages"][0]["content"] for row in prepared.table.to_pylist()] == [prompt]


def test_missing_key_of_two_files_is_an_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"Behavior": "b", "FunctionalCategory": "standard", "BehaviorID": null}\n')
    (tmp_path / "targets.json").write_text('{"x": "Sure"}')
    settings = block(reader="harmbench", reference={"local": "y"})
    with pytest.raises(DataError, match=r"a.jsonl:1: 'BehaviorID' is None"):
        prepare_dataset(settings, tmp_path / "a.jsonl", tmp_path / "targets.json")


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        ("mmlu", {"subject": "x", "question": NAN, "choices": list("abcd"), "answer": 1}, "'question' is None"),
        ("mmlu", {"subject": "x", "question": "q", "choices": ["a", NAN, "c", "d"], "answer": 1}, "'choices' is"),
        ("multiple_choice", {"question": "q", "choices": ["1", 2], "answer": 0}, "'choices' is"),
        ("gsm8k", {"question": "q", "answer": NAN}, "'answer' is None"),
        ("winogrande", {"sentence": "a _", "option1": 1, "option2": "b", "answer": "1"}, "'option1' is 1"),
        ("bbh", {"input": "q", "target": None}, "'target' is None"),
    ],
)
def test_capability_question_without_text_is_an_error(tmp_path: Path, task: str, row: Any, words: str) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"q.jsonl:1: {words}"):
        read_questions(task, [tmp_path / "q.jsonl"])


def test_choice_none_of_a_table_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("subject,question,A,B,C,D,answer\nx,Which?,None,nan,c,d,A\n")
    (question,), _ = read_questions("mmlu", [tmp_path / "q.csv"])
    assert question.doc["choices"] == ["None", "nan", "c", "d"]
