"""Progress of a long stage, kept where Snakemake cannot delete it.

A stage that may be killed keeps its state in a folder that is no declared output, named after a digest
of everything that the stage depends on. The next attempt with the same inputs finds it and goes on;
other inputs have another folder. State is made of numbers, text, tensors, lists and dicts, random states included, so
that a resumed run ends in the same bytes as an undisturbed one. It is read without running anything in it.
"""

from __future__ import annotations

import pickle
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from rebend.errors import DataError
from rebend.io.files import whole_file


class Checkpoints:
    """The newest state of one stage in `directory`; written every `every_seconds` and on SIGTERM."""

    def __init__(self, directory: str | Path, every_seconds: float = 60.0) -> None:
        self.directory = Path(directory)
        self.every_seconds = every_seconds
        self._last = time.monotonic()
        self._asked_to_stop = False

    @property
    def path(self) -> Path:
        """The file that holds the state."""
        return self.directory / "state.pt"

    def load(self) -> dict[str, Any] | None:
        """Return the saved state (on CPU), or None if there is none, or only a damaged one: then that is said.

        Raises `DataError` that names a file which holds more than values.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch writes checksums and does not look at them
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"checksum of {damaged}")
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.path}: no progress can be read ({reason}). Delete it and run again.") from error
        # zipfile raises NotImplementedError where a damaged header names a compression that there is none of.
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError) as error:
            print(f"{self.path}: is damaged ({error}); the stage starts anew", file=sys.stderr, flush=True)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` now."""
        # A stream of Python's says that the disk is full; torch's own would only say that something is wrong.
        with whole_file(self.path) as temporary, temporary.open("wb") as stream:
            torch.save(state, stream)
        self._last = time.monotonic()

    def after_step(
        self,
        make_state: Callable[[], dict[str, Any]],
        *,
        any_rank: Callable[[bool], bool] = bool,
        writes: bool = True,
    ) -> None:
        """Call after every step: saves when it is time, and saves and exits when asked to stop.

        Several ranks call this together: `any_rank` tells each whether one of them wants to, so that all of them
        make the state, and one `writes` it.
        """
        stopping = any_rank(self._asked_to_stop)
        if stopping or any_rank(time.monotonic() - self._last >= self.every_seconds):
            state = make_state()
            if writes:
                self.save(state)
            self._last = time.monotonic()
        if stopping:
            sys.exit(f"stopped by a signal; progress is kept in {self.directory}")

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """Inside the block, SIGTERM lets the current step end, saves, and exits."""

        def ask(signum: int, frame: FrameType | None) -> None:
            self._asked_to_stop = True

        previous = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def clear(self) -> None:
        """Forget the state; call when the stage's outputs are in place."""
        shutil.rmtree(self.directory, ignore_errors=True)
