"""A warm server for tests that start jobs without Snakemake."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rebend.pipeline.jobs.warm_start import VARIABLE, start_server


@contextmanager
def warm_server() -> Iterator[str]:
    """Yield the address of a warm server; environment variables of this process stay as they are."""
    before = os.environ.pop(VARIABLE, None)
    process = start_server()
    assert process is not None
    assert process.stdin is not None
    address = os.environ.pop(VARIABLE)
    if before is not None:
        os.environ[VARIABLE] = before
    deadline = time.monotonic() + 120
    while not Path(address).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield address
    process.stdin.close()
    process.wait(timeout=30)
