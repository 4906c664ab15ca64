"""Finished chunks of a long stage: made once, found again after a kill."""

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
    """A folder with one JSON file per finished chunk; without a folder nothing is kept.

    The folder must belong to one set of inputs only, as `run.progress` does. Numbers come back exactly:
    JSON keeps every digit of a float, and Python's also keeps NaN. A damaged chunk is made again.
    """

    def __init__(self, directory: str | Path | None) -> None:
        self.directory = Path(directory) if directory is not None else None

    def get_or_make(self, name: str, make: Callable[[], Any]) -> Any:
        """Return chunk `name`: the stored one, or the result of `make`, which is stored first."""
        if self.directory is None:
            return make()
        path = self.directory / f"{name}.json"
        if path.exists():
            try:
                return _checked(path.read_bytes())
            except ValueError:
                print(f"{path}: is damaged, and made again", file=sys.stderr, flush=True)
        made = make()
        body = json.dumps(made)
        write_text(path, f"{bytes_digest(body.encode())}\n{body}\n")
        return made

    def within(self, name: str) -> ChunkStore:
        """Return the store in the folder `name` below this one."""
        return ChunkStore(None if self.directory is None else self.directory / name)

    def clear(self) -> None:
        """Delete all chunks; call this when the stage's outputs are in place."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


def _checked(raw: bytes) -> Any:
    """Return the value in a file of checksum and JSON; raise `ValueError` if the checksum does not match."""
    checksum, _, body = raw.rstrip(b"\n").partition(b"\n")
    if bytes_digest(body).encode() != checksum:
        raise ValueError("its checksum is another")
    return json.loads(body)
