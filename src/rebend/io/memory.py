"""Advice for out-of-memory errors, and functions that return freed memory to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import torch

from rebend.errors import ModelError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_MMAP_BYTES = 4 * 2**20  # larger tensors get their own pages from mmap; for smaller ones mmap would be too slow
_TRIM_BYTES = 16 * 2**20  # free memory at the heap's end that the process keeps


@contextmanager
def memory_advice(remedies: str) -> Iterator[None]:
    """Inside the block, an out-of-memory error becomes a `ModelError` with `remedies`, settings that save memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(_message(error, remedies)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise ModelError(_message(error, remedies)) from error


def keep_flat() -> None:
    """Make the process return freed memory to the system from now on.

    By default, the C library takes ever larger tensors from one heap, which cannot shrink below its highest block in
    use, and Arrow has another heap. Peak memory then grows with the duration of a stage. On systems whose C library
    has no `mallopt`, only Arrow's pool changes.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def give_back() -> None:
    """Return freed memory to the system now, if the C library has `malloc_trim`. Call this between batches."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _message(error: BaseException, remedies: str) -> str:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"out of memory ({first_line}). Remedies: {remedies}"
