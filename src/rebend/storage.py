"""Files that are either whole or absent.

Everything is written under a temporary name in the same folder and renamed, so that a job that is
killed, or a disk that fills up, leaves the old file or none, never half of one.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rebend.errors import DataError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` if the block succeeds, else it goes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """As `whole_file`, for a folder; a folder that was there before is replaced at the very end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or damaged one is a `DataError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable JSON file ({error})") from error


def write_parquet(path: str | Path, table: pa.Table, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table, with `metadata` (text to text) in its schema, whole or not at all."""
    merged = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (metadata or {}).items()}}
    with whole_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(merged or None), temporary, compression="zstd")


def read_parquet(path: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a table; with `schema`, its columns must be there with those types (in any order).

    Raises `DataError` naming the file if it is missing, damaged, or of another shape.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}). Delete it and run again.") from error
    if schema is None:
        return table
    for field in schema:
        if field.name not in table.column_names:
            raise DataError(f"{path}: column '{field.name}' is missing; it has {table.column_names}")
        found = table.schema.field(field.name).type
        if found != field.type:
            raise DataError(f"{path}: column '{field.name}' is {found}, expected {field.type}")
    return table.select(schema.names)
