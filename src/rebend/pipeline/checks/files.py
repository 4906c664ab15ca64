"""Check the local files of data sets before any job: each file exists, has the needed columns and readable rows.

This runs while Snakemake starts, so it uses only the standard library and reads only the first rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rebend.data.readers.raw import file_format, header, read_rows
from rebend.data.readers.reader import columns_sentence, missing_columns
from rebend.data.readers.registry import load_reader
from rebend.data.readers.rows import UnselectedRowError, UnusableRowError
from rebend.errors import DataError, likely_typo

_MAX_ROWS = 20  # rows that are read


def check_source(
    where: str, reader: str, kind: str, source: Path, reference: Path | None = None, only: Iterable[str] = ()
) -> list[str]:
    """Return one message per mistake in the local files of a data set block.

    `where` names the block in the configuration, e.g. "datasets.hh_test". `reader` must support `kind`
    (`rebend.data.readers.registry.reader_mistakes` checks this first). `only` lists columns that select rows.
    """
    info = load_reader(reader)
    needed = [*info.columns[kind], *only, *([info.key] if info.key and reference else [])]
    mistakes = file_mistakes(source) or _row_mistakes(reader, kind, source, needed)
    if reference is not None:
        mistakes += file_mistakes(reference) or _column_mistakes(
            reader, kind, reference, info.second_columns, info.reference_entries
        )
    return [f"{where}: {mistake}" for mistake in mistakes]


def file_mistakes(path: Path) -> list[str]:
    """Return a message if a local file is missing, empty, a folder, or of an unknown type."""
    try:
        if path.is_dir():
            return [f"{path}: a folder; name the file in it"]
        if not path.exists():
            folder = path.parent
            if not folder.is_dir():
                return [f"{path}: there is no such file; its folder {folder} does not exist"]
            return [
                f"{path}: there is no such file.{likely_typo(path.name, (other.name for other in folder.iterdir()))}"
            ]
        if path.stat().st_size == 0:
            return [f"{path}: the file is empty"]
        file_format(path)
    except (OSError, DataError) as error:
        return [str(error)]
    return []


def table_mistakes(path: Path, column: str) -> list[str]:
    """Return a message if a file is no readable table with a column `column`."""
    if mistakes := file_mistakes(path):
        return mistakes
    try:
        first = next(read_rows(path, 1), None)
    except DataError as error:
        return [str(error)]
    if first is None:
        return [f"{path}: the file holds no rows"]
    if column not in first.row:
        found = ", ".join(map(str, first.row))
        return [f"{path}: column '{column}' is missing. Found: {found}.{likely_typo(column, first.row)}"]
    return []


def _row_mistakes(reader: str, kind: str, path: Path, needed: Sequence[str]) -> list[str]:
    """Return mistakes in columns and first rows, and a message if the reader can use none of these rows."""
    entries = load_reader(reader).entries
    mistakes = _column_mistakes(reader, kind, path, needed, entries)
    if mistakes or file_format(path) == ".parquet":
        return mistakes
    usable = False
    reasons = []
    try:
        for placed in read_rows(path, _MAX_ROWS, entries):
            try:
                load_reader(reader).convert(kind, placed)
                usable = True
            except UnselectedRowError:
                usable = True
            except UnusableRowError as reason:
                reasons.append(str(reason))
    except DataError as error:
        return [str(error)]
    if usable:
        return []
    listed = ", ".join(dict.fromkeys(reasons))
    return [f"{path}: none of the first {len(reasons)} rows can be used as {kind} by reader '{reader}' ({listed})"]


def _column_mistakes(
    reader: str, kind: str, path: Path, needed: Sequence[str], entries: tuple[str, str] | None
) -> list[str]:
    try:
        if file_format(path) == ".parquet":
            return _parquet_mistakes(reader, kind, path, needed)
        first = next(read_rows(path, 1, entries), None)
        names = header(path)
    except DataError as error:
        return [str(error)]
    place = f"{path}:1"
    if names is None and first is not None:
        place, names = first.place, list(first.row)
    if names and (missing := missing_columns(needed, names)):
        return [f"{place}: {columns_sentence(reader, kind, missing, names)}"]
    return [] if first is not None else [f"{path}: the file holds no rows"]


def _parquet_mistakes(reader: str, kind: str, path: Path, needed: Sequence[str]) -> list[str]:
    """Check the markers at both ends of a Parquet file, and the column names in its footer.

    In the footer each name follows one byte with its length. If this sequence is absent, the column is missing.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(max(0, size - 8))
        length, end = int.from_bytes(stream.read(4), "little"), stream.read(4)
        if size < 12 or start != b"PAR1" or end != b"PAR1" or length > size - 12:
            return [f"{path}: not a complete Parquet file; fetch it again"]
        stream.seek(size - 8 - length)
        footer = stream.read(length)
    for column in needed:
        if not any(bytes([len(name)]) + name.encode() in footer for name in column.split("|")):
            return [f"{path}: column '{column}' is missing; reader '{reader}' needs it for kind '{kind}'"]
    return []
