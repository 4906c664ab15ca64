"""A stopwatch for computations, and a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from tqdm import tqdm


class Stopwatch:
    """Measures the seconds since its construction.

    On a CPU it measures the processor time of this process (sum over threads), because other jobs on the machine
    change the wall time. On an accelerator it measures wall time, because the processor only waits there.
    """

    def __init__(self, device: torch.device) -> None:
        self.clock = "processor" if device.type == "cpu" else "wall"
        self._now = time.process_time if device.type == "cpu" else time.perf_counter
        self._start = self._now()

    def seconds(self) -> float:
        """Return the seconds of `clock` since construction; copy results to the CPU before this call."""
        return self._now() - self._start


T = TypeVar("T")


def progress(items: Iterable[T], name: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Yield `items` and show a progress bar called `name`; `done` of the `total` items were finished before."""
    update_seconds = 0.5 if sys.stderr.isatty() else 5.0
    yield from tqdm(items, desc=name, total=total, initial=done, mininterval=update_seconds, file=sys.stderr)
