"""Files that are either whole or absent.

Everything is written under a temporary name in the same folder, brought to the disk itself, and renamed, so that a
job that is killed, a disk that fills up or a machine that loses power leaves the old file or none, never half of one.
What a killed job leaves is called `.<name>.<8 hex digits>.part`; see `sweep`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebend.errors import DataError, DiskError

if TYPE_CHECKING:  # parsing the workflow needs the other functions, and not the time that this import takes
    import pyarrow as pa

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries that write through code of their own say it in words.
_NO_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
_AT_CWD, _EXCHANGE = -100, 2  # renameat2(2)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` if the block succeeds, else it goes.

    Raises `DiskError` naming the file where there is no room for it.
    """
    path = Path(path)
    temporary = _temporary(path)
    with _room_for(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # Without this, a machine that loses power may keep the new name and not what is behind it.
        to_disk(temporary)
        temporary.replace(path)


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """As `whole_file`, for a folder; a folder that was there before is replaced at the very end, in one step."""
    path = Path(path)
    temporary = _temporary(path)
    with _room_for(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                to_disk(file)
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.rename(path)


def to_disk(path: Path) -> None:
    """Wait until a file's contents are on the disk; whoever has no room for them after all says so here."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sweep(path: str | Path) -> None:
    """Remove what killed jobs have left of `path`; only for who knows that nobody else is writing it."""
    path = Path(path)
    for left in path.parent.glob(f".{path.name}.*.part"):
        _remove(left)


def sweep_inside(folder: Path) -> None:
    """As `sweep`, of everything in a folder."""
    for left in folder.rglob(".*.part"):
        _remove(left)


@contextmanager
def _room_for(path: Path, temporary: Path) -> Iterator[None]:
    """Inside the block, a disk without room becomes a `DiskError` that names `path`; then `temporary` goes."""
    with disk_advice(path):
        try:
            yield
        finally:
            _remove(temporary)


@contextmanager
def disk_advice(path: Path) -> Iterator[None]:
    """Inside the block, a disk without room becomes a `DiskError` that names `path`, the room, and what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) or not _lacks_room(error):
            raise
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        usage = shutil.disk_usage(folder)
        raise DiskError(
            f"{path}: cannot be written, the disk is full or a quota used up ({usage.free / 1e6:,.1f} of "
            f"{usage.total / 1e6:,.1f} MB are free without it). Make room and run again: what was finished is kept, "
            "and nothing half-written was left"
        ) from error


def _lacks_room(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a disk is full, or a quota used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if any(words in str(error) for words in _NO_ROOM_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def _exchange(new: Path, old: Path) -> None:
    """Put the folder `new` in the place of `old`, and `old` in that of `new`.

    In one step where the system can (Linux, on most local file systems); elsewhere there is a moment without a folder.
    """
    with suppress(AttributeError):  # a C library without it
        if ctypes.CDLL(None).renameat2(_AT_CWD, os.fsencode(new), _AT_CWD, os.fsencode(old), _EXCHANGE) == 0:
            return
    aside = _temporary(old)
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


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
        raise DataError(f"{path}: not a readable JSON file ({error}). Delete it and run again.") from error


def write_parquet(path: str | Path, table: pa.Table, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table, with `metadata` (text to text) in its schema, whole or not at all."""
    import pyarrow.parquet as pq

    merged = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (metadata or {}).items()}}
    with whole_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(merged or None), temporary, compression="zstd")


def read_parquet(path: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a table; with `schema`, its columns must be there with those types (in any order).

    Raises `DataError` naming the file if it is missing, damaged, or of another shape.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

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
