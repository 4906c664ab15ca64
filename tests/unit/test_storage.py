"""A file is whole or absent, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from rebend.errors import DataError
from rebend.schemas import SCORES
from rebend.storage import read_json, read_parquet, whole_directory, whole_file, write_json, write_parquet


def scores() -> pa.Table:
    rows = [{"row_id": "a", "score": 1.5, "not_scored": None}, {"row_id": "b", "score": None, "not_scored": "empty"}]
    return pa.Table.from_pylist(rows, schema=SCORES)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", scores(), {"reward": "r"})
    again = read_parquet(tmp_path / "t.parquet", SCORES)
    assert again.equals(scores())
    assert again.schema.metadata == {b"reward": b"r"}


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", scores())
    write_parquet(tmp_path / "2.parquet", scores())
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_write_that_fails_leaves_the_old_file_and_no_scrap(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_file(file) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.txt"]


def test_a_folder_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), whole_directory(folder) as temporary:
        (temporary / "x").write_text("half")
        raise RuntimeError
    assert (folder / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "gone").write_text("old")
    with whole_directory(folder) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_parquet(file, scores())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        read_parquet(file)


def test_a_missing_column_and_a_wrong_type_are_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_parquet(file, scores().drop_columns("score"))
    with pytest.raises(DataError, match="column 'score' is missing"):
        read_parquet(file, SCORES)
    write_parquet(file, pa.table({"row_id": ["a"], "score": ["1"], "not_scored": [""]}))
    with pytest.raises(DataError, match="column 'score' is string, expected double"):
        read_parquet(file, SCORES)


def test_json_is_sorted_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not a readable JSON file"):
        read_json(tmp_path / "a.json")
