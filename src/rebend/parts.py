"""Finished parts of a long stage: made once, found again after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rebend.storage import write_text


class Parts:
    """A folder with one JSON file per finished part; without a folder nothing is kept.

    The folder must belong to one set of inputs only, as `run.progress` does. Numbers come back exactly:
    JSON keeps every digit of a float, and Python's also keeps NaN.
    """

    def __init__(self, directory: str | Path | None) -> None:
        self.directory = Path(directory) if directory is not None else None

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return part `name`: the kept one, or what `make` returns, kept before it is returned."""
        if self.directory is None:
            return make()
        path = self.directory / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        made = make()
        write_text(path, json.dumps(made))
        return made

    def within(self, name: str) -> Parts:
        """Return the parts kept in a folder below this one."""
        return Parts(None if self.directory is None else self.directory / name)

    def clear(self) -> None:
        """Forget all parts; call when the stage's outputs are in place."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
