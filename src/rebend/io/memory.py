"""Memory: what to do when it ran out, and how a long stage keeps no more of it than it uses."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import torch

from rebend.errors import ModelError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of malloc.h
_OWN_PAGES = 4 * 2**20  # bytes from which on a tensor has pages of its own; below, asking for them costs too much time
_FREE_ON_TOP = 16 * 2**20  # bytes of free memory at the heap's end that are kept


@contextmanager
def memory_advice(knobs: str) -> Iterator[None]:
    """Inside the block, running out of memory becomes a `ModelError` that names the settings that lower it."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(_sentence(error, knobs)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise ModelError(_sentence(error, knobs)) from error


def keep_flat() -> None:
    """From now on, and for the whole process, let memory that is freed go back to the system.

    Left alone, the C library takes larger and larger tensors from one heap, which never shrinks below what lies
    highest in it, and Arrow keeps a heap of its own: peaks then grow with how long a stage runs, not with what it
    holds. Where there is no such C library, nothing happens.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)
        library.mallopt(_M_TRIM_THRESHOLD, _FREE_ON_TOP)


def give_back() -> None:
    """Give freed memory back to the system, where the C library can: between pieces of work it only piles up."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _sentence(error: BaseException, knobs: str) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return f"memory ran out ({first}). What needs less of it: {knobs}"
