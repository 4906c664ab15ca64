"""Finished chunks of a long stage: stored, so that the next attempt after a kill need not compute them again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rebend.io.checksums import bytes_digest
from rebend.io.files import write_text


class ChunkStore:
    """A folder with one JSON file per finished chunk; if `directory` is None, nothing is stored.

    Use one folder per set of inputs, as `run.progress` is. Floats keep all their digits, and NaN and infinity are
    stored too. A damaged chunk is computed again. `on_made` is called after each chunk that is computed.
    """

    def __init__(self, directory: str | Path | None, on_made: Callable[[], None] | None = None) -> None:
        self.directory = Path(directory) if directory is not None else None
        self.on_made = on_made or (lambda: None)

    def get_or_make(self, name: str, make: Callable[[], Any]) -> Any:
        """Return chunk `name`: the stored one, or the result of `make`, which is stored first."""
        if self.directory is None:
            return self._made(make)
        path = self.directory / f"{name}.json"
        if path.exists():
            try:
                return _checked_value(path.read_bytes())
            except ValueError:
                print(f"{path}: is damaged and is computed again", file=sys.stderr, flush=True)
        value = self._made(make)
        body = json.dumps(value)
        write_text(path, f"{bytes_digest(body.encode())}\n{body}\n")
        return value

    def within(self, name: str) -> ChunkStore:
        """Return the store in the folder `name` below this one."""
        return ChunkStore(None if self.directory is None else self.directory / name, self.on_made)

    def _made(self, make: Callable[[], Any]) -> Any:
        value = make()
        self.on_made()
        return value

    def clear(self) -> None:
        """Delete all chunks; call this after the stage's outputs are written."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


def _checked_value(raw: bytes) -> Any:
    """Return the value in a file of checksum and JSON; raise `ValueError` if the checksum does not match."""
    checksum, _, body = raw.rstrip(b"\n").partition(b"\n")
    if bytes_digest(body).encode() != checksum:
        raise ValueError("its checksum does not match")
    return json.loads(body)
