"""Which GPUs a job of a local run may use: as many as it asks for, each lent to one job at a time.

A cluster's scheduler gives each job its own devices; a workstation has none. So a local run names its devices in the
environment, and a job takes the lock of as many of them as it needs before it touches any. The kernel lets go of a
lock when the last process that holds it is gone, however it ended. The locks lie in one folder per user: two runs at
a time share the devices as well.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rebend.io.locks import give_lock_back, locked, take_lock

DEVICES = "CUDA_VISIBLE_DEVICES"
LENT = "REBEND_GPUS"  # devices that the jobs of this run take turns at, separated by commas
_POLL_SECONDS = 0.2


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without asking a driver: this runs while parsing.

    They are those of CUDA_VISIBLE_DEVICES, or else one number for each device file.
    """
    chosen = os.environ.get(DEVICES)
    if chosen is None:
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    named = [name.strip() for name in chosen.split(",")]
    # as CUDA reads it: what follows a name that is none counts for nothing
    first_bad = next((place for place, name in enumerate(named) if not name or name.startswith("-")), len(named))
    return named[:first_bad]


def lend(gpus: Sequence[str]) -> None:
    """Let the jobs that this process starts take turns at these devices; with one or none there is nothing to do."""
    if len(gpus) > 1:
        os.environ[LENT] = ",".join(gpus)


def take_gpus(count: int) -> list[str]:
    """Wait until `count` of the devices that are lent are free, take them, and see no others from here on.

    Call before CUDA is used. A job that asks for none sees none, as on a cluster. Where nothing is lent nothing
    changes, and the list is empty. More than there are is cut to all of them, as Snakemake cuts resources.
    """
    lent = [name for name in os.environ.get(LENT, "").split(",") if name]
    if not lent:
        return []
    taken = _wait_for(min(count, len(lent)), lent) if count else {}
    os.environ[DEVICES] = ",".join(taken)
    return list(taken)


def _wait_for(count: int, lent: Sequence[str]) -> dict[str, int]:
    """All or none: jobs that each hold a part of what they need would wait for each other for ever."""
    folder = _folder()
    while True:
        # one at a time, or two jobs could take halves from each other again and again
        with locked(folder / "choosing", announce=False):
            free = _lock_free_ones(count, lent, folder)
            if len(free) == count:
                return free
            _let_go(free.values())
        time.sleep(_POLL_SECONDS)


def _lock_free_ones(count: int, lent: Sequence[str], folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in lent:
        if len(found) == count:
            break
        lock = take_lock(folder / ("gpu-" + re.sub(r"[^\w.-]", "_", name)))
        if lock is not None:
            found[name] = lock
    return found


def _let_go(locks: Iterable[int]) -> None:
    for lock in locks:
        give_lock_back(lock)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"rebend-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
