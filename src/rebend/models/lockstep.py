"""Ranks that share every weight (ZeRO-3) must call the model equally often, or they wait for each other for ever.

How often a rank calls it depends on the lengths of its texts. Whoever decides a number of calls asks `most`;
inside `lockstep` all ranks get the largest of their numbers, elsewhere each number is its own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LARGEST: ContextVar[Callable[[int], int]] = ContextVar("largest", default=lambda number: number)


@contextmanager
def lockstep(largest: Callable[[int], int]) -> Iterator[None]:
    """Inside the block, `most` asks `largest`, which all ranks call together."""
    token = _LARGEST.set(largest)
    try:
        yield
    finally:
        _LARGEST.reset(token)


def most(number: int) -> int:
    """Return the largest number of all ranks in lockstep."""
    return _LARGEST.get()(number)
