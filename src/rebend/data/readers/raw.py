"""Read the rows of a source file, in any of the supported formats, as dicts with their file and line.

A missing value is None in every format: null and NaN in JSON and Parquet, an empty cell or one of `MISSING_WORDS` in
CSV and TSV. Lines of JSON end at "\\n" only, since texts may contain other line separators of Unicode. Text formats
need only the standard library, so that sources can be checked while Snakemake parses.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from rebend.errors import DataError

Row = dict[str, Any]
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MISSING_WORDS = frozenset({"", "NaN", "nan", "null", "None"})  # cells of CSV and TSV that other programs write for None


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


def read_rows(
    path: Path,
    limit: int | None = None,
    mapping: tuple[str, str] | None = None,
    missing_words: Collection[str] = MISSING_WORDS,
) -> Iterator[SourceRow]:
    """Yield the rows of `path`, at most `limit`. Missing values are None.

    With `mapping`, each entry of a file that is one JSON object is a row; `mapping` names the columns of the entry's
    name and of its value. `missing_words` are the cells of CSV and TSV that count as missing. Raises `DataError` with
    file and line for a damaged file or row, and for two columns of one name.
    """
    kind = file_format(path)
    if kind == ".parquet":
        yield from islice(_parquet(path), limit)
        return
    try:
        with _open(path, kind) as stream:
            if mapping is not None and kind == ".json":
                rows = _json_object(path, stream.read(), mapping)
            else:
                table = kind in (".csv", ".tsv")
                rows = _delimited(path, stream, kind, missing_words) if table else _json(path, stream)
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
    with _open(path, kind) as stream:
        return next(csv.reader(stream, delimiter=_delimiter(kind)), [])


def _open(path: Path, kind: str) -> IO[str]:
    newline = "\n" if kind in (".json", ".jsonl") else ""  # the module csv recognizes line ends itself
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _delimiter(kind: str) -> str:
    return "," if kind == ".csv" else "\t"


def _delimited(path: Path, stream: IO[str], kind: str, missing_words: Collection[str]) -> Iterator[SourceRow]:
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
                names = _distinct(fields, place)
            elif len(fields) != len(names):
                raise DataError(f"{place}: {len(fields)} fields where the first line has {len(names)}")
            else:
                cells = (None if cell in missing_words else cell for cell in fields)
                yield SourceRow(start, place, dict(zip(names, cells, strict=True)))
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
            row = _loads(line, place)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not a JSON object ({error.msg}, column {error.colno})") from error
        yield SourceRow(number, place, _object(row, place))


def _json_list(path: Path, text: str) -> Iterator[SourceRow]:
    for number, row in enumerate(parse_json(path, text, "a JSON list"), start=1):
        place = f"{path}, row {number}"
        yield SourceRow(number, place, _object(row, place))


def _json_object(path: Path, text: str, columns: tuple[str, str]) -> Iterator[SourceRow]:
    """Yield the entries of one JSON object; a list of rows with these columns is accepted, too."""
    content = parse_json(path, text, "a JSON object")
    if isinstance(content, list):
        yield from _json_list(path, text)
        return
    for number, entry in enumerate(_object(content, str(path)).items(), start=1):
        yield SourceRow(number, f"{path}, entry {number}", dict(zip(columns, entry, strict=True)))


def parse_json(path: Path, text: str, what: str) -> Any:
    """Return the value of a JSON text, with None for NaN. Raises `DataError` with file and line if it is not `what`."""
    try:
        return _loads(text, str(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not {what} ({error.msg})") from error


def _loads(text: str, place: str) -> Any:
    """Return the value of a JSON text, with None for NaN. Raises `DataError` if an object has two keys of one name."""

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) != len(pairs):
            _distinct([name for name, _ in pairs], place)
        return row

    return json.loads(text, parse_constant=_constant, object_pairs_hook=unique)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _distinct(names: list[str], place: str) -> list[str]:
    """Return `names`. Raises `DataError` if two columns have one name, because one would hide the other."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{place}: names that occur more than once: {', '.join(map(repr, twice))}")
    return names


def _without_nan(value: Any) -> Any:
    """Return `value` with None for NaN, also inside lists and structs."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list) else value


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
            _distinct(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRow(number, f"{path}, row {number}", _without_nan(row))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
