"""SHA-256 of files, bytes and JSON, as 64 hexadecimal digits.

This is the only checksum of records, lock files, shards, chunks and checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

_LENGTH = 64  # bytes of an appended checksum
_BLOCK = 2**20  # bytes that are read at once


def bytes_digest(content: bytes) -> str:
    """Return the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def json_digest(value: Any, *texts: str) -> str:
    """Return the SHA-256 of `value` as JSON with sorted keys, followed by `texts`."""
    return bytes_digest("".join([json.dumps(value, sort_keys=True), *texts]).encode())


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file.

    The result is cached until the file's size, modification time or inode changes.
    """
    status = Path(path).stat()
    return _cached_digest(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=100_000)
def _cached_digest(path: str, size: int, modified_ns: int, inode: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def append_digest(path: Path) -> None:
    """Append the SHA-256 of a file's contents to the file."""
    with path.open("r+b") as stream:
        digest = _digest_of_first(stream, path.stat().st_size)
        stream.write(digest)


def ends_with_digest(path: Path) -> bool:
    """Return whether a file ends with the SHA-256 of the contents before it, as `append_digest` writes it."""
    with path.open("rb") as stream:
        digest = _digest_of_first(stream, path.stat().st_size - _LENGTH)
        return stream.read() == digest


def _digest_of_first(stream: IO[bytes], n_bytes: int) -> bytes:
    """Read `n_bytes` bytes and return their SHA-256 as ASCII digits."""
    digest = hashlib.sha256()
    while n_bytes > 0 and (block := stream.read(min(n_bytes, _BLOCK))):
        digest.update(block)
        n_bytes -= len(block)
    return digest.hexdigest().encode()
