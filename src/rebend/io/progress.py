"""How long a computation took, whatever else ran beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from tqdm import tqdm


class Stopwatch:
    """Seconds since it was made.

    Without an accelerator it counts the process's own processor time, all threads together: jobs side by side
    on one machine make the wall clock say more about the neighbours than about the method. With one it counts
    wall time, because there the processor waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.clock = "processor" if device.type == "cpu" else "wall"
        self._now = time.process_time if device.type == "cpu" else time.perf_counter
        self._start = self._now()

    def seconds(self) -> float:
        """Return the seconds of `clock` since the start; results must have reached the CPU by now."""
        return self._now() - self._start


T = TypeVar("T")


def progress(items: Iterable[T], what: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate over `items`, showing how far and how long; `done` of `total` were finished before."""
    quiet_seconds = 0.5 if sys.stderr.isatty() else 5.0
    yield from tqdm(items, desc=what, total=total, initial=done, mininterval=quiet_seconds, file=sys.stderr)
