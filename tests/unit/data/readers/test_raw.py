"""Rows of source files: places, damaged files and JSON objects."""

import gzip
import json

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
