"""Equal numbers of model calls on all ranks.

Ranks that share every weight (ZeRO-3) must call the model equally often, or they wait for each other for ever. The
number of calls depends on the lengths of a rank's texts, so code that makes several calls passes their number to
`max_over_ranks`. Inside `lockstep`, that function returns the largest number of all ranks; elsewhere, its argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LARGEST: ContextVar[Callable[[int], int]] = ContextVar("largest", default=lambda number: number)


@contextmanager
def lockstep(largest: Callable[[int], int]) -> Iterator[None]:
    """Inside the block, `max_over_ranks` calls `largest`; all ranks call it together."""
    token = _LARGEST.set(largest)
    try:
        yield
    finally:
        _LARGEST.reset(token)


def max_over_ranks(number: int) -> int:
    """Return the largest number of all ranks in lockstep; outside of it, the number itself."""
    return _LARGEST.get()(number)
