"""Rows of source files: places, damaged files and JSON objects."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rebend.data.readers.raw import read_rows
from rebend.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": \n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", b'{"prompt": "x"}\n["x"]\n', "a.jsonl:2: an object with named columns is expected"),
        ("a.json", b'[{"prompt": "x"},\n {"prompt" 1}]', "a.json:2: not a JSON list"),
        ("a.csv", b'prompt,harmful\n"two\nlines",1\nx,1,2\n', "a.csv:4: 3 fields where the first line has 2"),
        ("a.csv", b'prompt,harmful\nx,1\n"never closed,1\n', "a.csv:3: not readable as a table"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "a.jsonl: not UTF-8 text"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n' * 500, mtime=0)[:-20], "a.jsonl.gz: cannot be read"),
        ("a.parquet", b"PAR1 but nothing else", "a.parquet: not a readable Parquet file"),
        ("a.xlsx", b"x", "a.xlsx: unknown file type. Allowed: .jsonl"),
    ],
)
def test_read_rows_raises_with_file_and_line_for_a_damaged_file(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert message in str(caught.value)


def test_read_rows_ignores_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\n\n{"prompt": "y"}\n\n')
    assert [(source_row.number, source_row.row["prompt"]) for source_row in read_rows(path)] == [(1, "x"), (3, "y")]


def test_read_rows_returns_the_entries_of_a_json_object(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps({"zor": "Sure, zor", "vak": "Sure, vak"}, indent=4))
    rows = [source_row.row for source_row in read_rows(path, mapping=("BehaviorID", "target"))]
    assert rows == [{"BehaviorID": "zor", "target": "Sure, zor"}, {"BehaviorID": "vak", "target": "Sure, vak"}]
    assert [source_row.place for source_row in read_rows(path, 1, ("a", "b"))] == [f"{path}, entry 1"]
    path.write_text(json.dumps(rows))
    assert [source_row.row for source_row in read_rows(path, mapping=("BehaviorID", "target"))] == rows
    path.write_text('{"zor": "Sure",\n "vak"}')
    with pytest.raises(DataError, match=r"targets\.json:2: not a JSON object"):
        list(read_rows(path, mapping=("BehaviorID", "target")))


SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # `str.splitlines` splits at each of these


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_of_json_end_at_newlines_only(tmp_path, ending):
    texts = [f"a{mark}b" for mark in SEPARATORS]
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    path = tmp_path / "a.jsonl"
    path.write_bytes("".join(line + ending for line in lines).encode())
    assert [(row.number, row.row["prompt"]) for row in read_rows(path)] == list(enumerate(texts, start=1))


def test_carriage_return_between_the_values_of_a_json_line_ends_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1,\r"b": 2}\n{"a": 3, "b": 4}\n')
    assert [row.row for row in read_rows(path)] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"prompt,label,prompt\nx,1,y\n", "a.csv:1: names that occur more than once: 'prompt'"),
        ("a.tsv", b"\t\tprompt\n1\t2\tx\n", "a.tsv:1: names that occur more than once: ''"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "x", "prompt": "y"}\n', "a.jsonl:2: names that occur"),
        ("a.json", b'[{"prompt": "x", "prompt": "y"}]', "a.json: names that occur"),
    ],
)
def test_two_columns_of_one_name_are_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / name))
    assert message in str(caught.value)


def test_two_columns_of_one_name_in_parquet_are_an_error(tmp_path):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"]), pa.array(["z"])], names=["prompt", "b", "prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: names that occur more than once: 'prompt'"):
        list(read_rows(tmp_path / "a.parquet"))


def test_two_entries_of_one_name_in_a_json_object_are_an_error(tmp_path):
    (tmp_path / "targets.json").write_text('{"zor": "Sure, zor", "zor": "Sure"}')
    with pytest.raises(DataError, match=r"targets\.json: names that occur more than once: 'zor'"):
        list(read_rows(tmp_path / "targets.json", mapping=("BehaviorID", "target")))
