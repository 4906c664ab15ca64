"""A stopwatch for computations, and a progress bar."""

from __future__ import annotations

import math
import statistics
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
        self._start = self._last = self._now()
        self._laps: list[float] = []

    def seconds(self) -> float:
        """Return the seconds of `clock` since construction; copy results to the CPU before this call."""
        return self._now() - self._start

    def lap(self) -> None:
        """End a lap, one of several parts of the work."""
        now = self._now()
        self._laps.append(now - self._last)
        self._last = now

    def facts(self) -> dict[str, int | float]:
        """Return the number of laps and the standard error of their sum, seconds; nothing for fewer than two laps."""
        if len(self._laps) < 2:
            return {}
        error = math.sqrt(len(self._laps)) * statistics.stdev(self._laps)
        return {"decode_batches": len(self._laps), "decode_seconds_error": round(error, 3)}


T = TypeVar("T")


def progress(items: Iterable[T], name: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Yield `items` and show a progress bar called `name`; `done` of the `total` items were finished before."""
    update_seconds = 0.5 if sys.stderr.isatty() else 5.0
    yield from tqdm(items, desc=name, total=total, initial=done, mininterval=update_seconds, file=sys.stderr)
