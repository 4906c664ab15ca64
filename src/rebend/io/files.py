"""Write files and folders so that each is either complete or absent; read and write JSON and Parquet.

Every file is written under a temporary name in the same folder, flushed to the disk, and renamed. After a kill, a full
disk or a loss of power, the old file or no file exists, never an incomplete one. A killed job leaves files with names
like `.<name>.<8 hex digits>.part`; `sweep` deletes them.
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

if TYPE_CHECKING:  # Snakemake's parsing uses the other functions; importing pyarrow would slow it down
    import pyarrow as pa

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries that do not write through Python raise errors without an errno.
_DISK_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded", "File too large")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of renameat2(2)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, otherwise delete it.

    Raises `DiskError` naming the file if the disk is full or a quota is used up.
    """
    path = Path(path)
    temporary = _temporary(path)
    with _temporary_removed(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # Without this, a loss of power may leave the new name without the contents.
        _flush(temporary)
        temporary.replace(path)


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """Do what `whole_file` does, for a folder; an existing folder is replaced after the block, in one step."""
    path = Path(path)
    temporary = _temporary(path)
    with _temporary_removed(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _flush(file)
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.rename(path)


def _flush(path: Path) -> None:
    """Wait until a file's contents are on the disk; some file systems report a full disk only here."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sweep(path: str | Path) -> None:
    """Delete leftover temporary files of `path`; call this only while no other process writes it."""
    path = Path(path)
    for temporary in path.parent.glob(f".{path.name}.*.part"):
        _remove(temporary)


def sweep_inside(folder: Path) -> None:
    """Do what `sweep` does, for all files in a folder and below it."""
    for temporary in folder.rglob(".*.part"):
        _remove(temporary)


@contextmanager
def _temporary_removed(path: Path, temporary: Path) -> Iterator[None]:
    """Convert errors as `disk_advice` does; after the block, delete `temporary` if it still exists."""
    with disk_advice(path):
        try:
            yield
        finally:
            _remove(temporary)


@contextmanager
def disk_advice(path: Path) -> Iterator[None]:
    """Inside the block, a full disk becomes a `DiskError` that names `path`, the free space, and the remedy."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) or not _is_disk_full(error):
            raise
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        usage = shutil.disk_usage(folder)
        raise DiskError(
            f"{path}: cannot be written, the disk is full or a quota is used up ({usage.free / 1e6:,.1f} of "
            f"{usage.total / 1e6:,.1f} MB are free without it). Make room and run again: finished results are kept, "
            "and no incomplete file remains"
        ) from error


def _is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, reports a full disk or a quota that is used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(message in str(error) for message in _DISK_FULL_MESSAGES):
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
    """Exchange the names of the folders `new` and `old`.

    Readers must find a complete folder at every moment, also after a kill between two steps. `rename` replaces a
    folder only if it is empty, so two renames would leave a moment without a folder. The system call `renameat2`
    exchanges both names in one step (Linux, most local file systems); Python's standard library does not offer it,
    hence ctypes. On other systems three renames replace the folder, with such a moment between them.
    """
    with suppress(AttributeError):  # a C library without renameat2
        if ctypes.CDLL(None).renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
    aside = _temporary(old)
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; see `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; see `whole_file`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file. Raises `DataError` naming the file if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable JSON file ({error}). Delete it and run again.") from error


def write_parquet(path: str | Path, table: pa.Table, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table with `metadata` added to that of its schema; see `whole_file`."""
    import pyarrow.parquet as pq

    merged = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (metadata or {}).items()}}
    with whole_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(merged or None), temporary, compression="zstd")


def read_parquet(path: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """Return the table in a Parquet file; with `schema`, only the columns of the schema, in its order.

    Raises `DataError` naming the file if it is missing or damaged, or lacks a column of `schema`, or has it with
    another type.
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
        column_type = table.schema.field(field.name).type
        if column_type != field.type:
            raise DataError(f"{path}: column '{field.name}' is {column_type}, expected {field.type}")
    return table.select(schema.names)
