"""A bar with an estimate for long loops, written to the job's log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate over `items`, showing how far and how long; `done` of `total` were finished before."""
    quiet_seconds = 0.5 if sys.stderr.isatty() else 5.0
    yield from tqdm(items, desc=what, total=total, initial=done, mininterval=quiet_seconds, file=sys.stderr)
