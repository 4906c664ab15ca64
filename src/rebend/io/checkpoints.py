"""Checkpoints of a long stage: after a kill, the stage continues from its last saved state.

The state is in a folder that is no declared output, because Snakemake deletes the outputs of a failed job. The
folder is named after a digest of everything that the stage depends on: the next attempt with the same inputs loads
the state, and other inputs have another folder. A state consists of numbers, text, tensors, lists and dicts. It
includes the states of random number generators, so that a resumed run ends in the same bytes as an uninterrupted one.
Loading a state never runs code that the file contains.
"""

from __future__ import annotations

import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from rebend.errors import DataError
from rebend.io.checksums import append_digest, ends_with_digest
from rebend.io.files import whole_file


class Checkpoints:
    """The last saved state of one stage, in the folder `directory`; saved every `every_seconds` and on SIGTERM."""

    def __init__(self, directory: str | Path, every_seconds: float = 60.0) -> None:
        self.directory = Path(directory)
        self.every_seconds = every_seconds
        self._last = time.monotonic()
        self._stop_requested = False

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.directory / "state.pt"

    def load(self) -> dict[str, Any] | None:
        """Return the saved state with its tensors on the CPU.

        Returns None if there is no state, or if the file is damaged; the latter is reported on standard error.
        Raises `DataError` if the file contains anything other than plain values and tensors.
        """
        if not self.path.exists():
            return None
        try:
            if not ends_with_digest(self.path):
                raise ValueError("its checksum does not match")
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.path}: not a readable state ({reason}). Delete it and run again.") from error
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{self.path}: is damaged ({error}); the stage starts again", file=sys.stderr, flush=True)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` now, followed by its checksum."""
        with whole_file(self.path) as temporary:
            # Errors of a Python stream name a full disk; errors of torch's own stream do not.
            with temporary.open("wb") as stream:
                torch.save(state, stream)
            append_digest(temporary)  # the zip reader of `torch.load` ignores bytes after the archive
        self._last = time.monotonic()

    def after_step(
        self,
        make_state: Callable[[], dict[str, Any]],
        *,
        any_rank: Callable[[bool], bool] = bool,
        writes: bool = True,
    ) -> None:
        """Save the state if `every_seconds` have passed; after a SIGTERM, save it and exit. Call after every step.

        In a training on several ranks, all ranks call this together. `any_rank` returns to each of them whether the
        argument is true on any rank, so that all ranks make the state together; the rank with `writes` saves it.
        """
        stopping = any_rank(self._stop_requested)
        if stopping or any_rank(time.monotonic() - self._last >= self.every_seconds):
            state = make_state()
            if writes:
                self.save(state)
            self._last = time.monotonic()
        if stopping:
            sys.exit(f"stopped by a signal; the state is saved in {self.directory}")

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """Inside the block, SIGTERM does not end the process; the next `after_step` saves the state and exits."""

        def request_stop(signum: int, frame: FrameType | None) -> None:
            self._stop_requested = True

        previous = signal.signal(signal.SIGTERM, request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def clear(self) -> None:
        """Delete the state; call this after the stage's outputs are written."""
        shutil.rmtree(self.directory, ignore_errors=True)
