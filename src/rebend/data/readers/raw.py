"""Read the rows of a source file, in any of the supported formats, as dicts with their file and line.

Text formats need only the standard library, so that sources can be checked while Snakemake parses.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from rebend.errors import DataError

Row = dict[str, Any]
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


class SourceRow(NamedTuple):
    """A row, its number (the line in formats with lines, else the index from 1), and its place for messages."""

    number: int
    place: str
    row: Row


def file_format(path: Path) -> str:
    """Return the one of `FORMATS` at the end of a file name (before `.gz`). Raises `DataError` if it is none."""
    name = path.name.lower().removesuffix(".gz")
    ending = next((ending for ending in FORMATS if name.endswith(ending)), None)
    if ending is None:
        raise DataError(f"{path}: unknown file type. Allowed: {', '.join(FORMATS)}, each also with .gz at the end")
    if ending == ".parquet" and path.suffix.lower() == ".gz":
        raise DataError(f"{path}: a Parquet file is compressed internally; unpack it")
    return ending


def read_rows(path: Path, limit: int | None = None, mapping: tuple[str, str] | None = None) -> Iterator[SourceRow]:
    """Yield the rows of `path`, at most `limit`. Raises `DataError` with file and line for a damaged file or row.

    With `mapping`, each entry of a file that is one JSON object is a row; `mapping` names the columns of the entry's
    name and of its value.
    """
    kind = file_format(path)
    if kind == ".parquet":
        yield from islice(_parquet(path), limit)
        return
    try:
        with _open(path) as stream:
            if mapping is not None and kind == ".json":
                rows = _json_object(path, stream.read(), mapping)
            else:
                rows = _delimited(path, stream, kind) if kind in (".csv", ".tsv") else _json(path, stream)
            yield from islice(rows, limit)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start} of a block)") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def header(path: Path) -> list[str] | None:
    """Return the column names of a CSV or TSV file; None for other formats, where each row names its columns."""
    kind = file_format(path)
    if kind not in (".csv", ".tsv"):
        return None
    with _open(path) as stream:
        return next(csv.reader(stream, delimiter=_delimiter(kind)), [])


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _delimiter(kind: str) -> str:
    return "," if kind == ".csv" else "\t"


def _delimited(path: Path, stream: IO[str], kind: str) -> Iterator[SourceRow]:
    """Yield the rows of a table. A quoted field may span lines, so a row has the number of its first line."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(stream, delimiter=_delimiter(kind), strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for fields in reader:
            place = f"{path}:{line}"
            start, line = line, reader.line_num + 1
            if not fields:
                continue
            if names is None:
                names = fields
            elif len(fields) != len(names):
                raise DataError(f"{place}: {len(fields)} fields where the first line has {len(names)}")
            else:
                yield SourceRow(start, place, dict(zip(names, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not readable as a table ({error})") from error


def _json(path: Path, stream: IO[str]) -> Iterator[SourceRow]:
    """Yield the objects of a file with one object per line, or with one list (`.json` files of the hub are either)."""
    first = stream.readline()
    if first.lstrip().startswith("["):
        yield from _json_list(path, first + stream.read())
        return
    for number, line in enumerate(chain([first], stream), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not a JSON object ({error.msg}, column {error.colno})") from error
        yield SourceRow(number, place, _object(row, place))


def _json_list(path: Path, text: str) -> Iterator[SourceRow]:
    for number, row in enumerate(_parse(path, text, "a JSON list"), start=1):
        place = f"{path}, row {number}"
        yield SourceRow(number, place, _object(row, place))


def _json_object(path: Path, text: str, columns: tuple[str, str]) -> Iterator[SourceRow]:
    """Yield the entries of one JSON object; a list of rows with these columns is accepted, too."""
    content = _parse(path, text, "a JSON object")
    if isinstance(content, list):
        yield from _json_list(path, text)
        return
    for number, entry in enumerate(_object(content, str(path)).items(), start=1):
        yield SourceRow(number, f"{path}, entry {number}", dict(zip(columns, entry, strict=True)))


def _parse(path: Path, text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not {what} ({error.msg})") from error


def _object(row: object, place: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{place}: an object with named columns is expected, got {str(row)[:60]!r}")
    return row


def _parquet(path: Path) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRow(number, f"{path}, row {number}", row)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
