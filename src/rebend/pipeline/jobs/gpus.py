"""Assign GPUs to the jobs of a local run: each job gets as many as it needs, each GPU has one job at a time.

The scheduler of a cluster assigns devices to jobs; a workstation has no scheduler. So a local run lists its devices in
an environment variable, and a job locks as many of them as it needs before it uses CUDA. The kernel releases a lock
when the last process that holds it has ended, also after a kill. The locks are in one folder per user, so two runs at
the same time share the devices too.
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
LENT = "REBEND_GPUS"  # devices that the jobs of this run share, separated by commas
_POLL_SECONDS = 0.2


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use.

    They are those in CUDA_VISIBLE_DEVICES, or else one number per device file. No driver is loaded, because this
    function runs while Snakemake parses.
    """
    chosen = os.environ.get(DEVICES)
    if chosen is None:
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = [name.strip() for name in chosen.split(",")]
    # CUDA ignores an invalid name and all names after it.
    first_invalid = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return names[:first_invalid]


def lend(gpus: Sequence[str]) -> None:
    """Share these devices among the jobs that this process starts; does nothing for one device or none."""
    if len(gpus) > 1:
        os.environ[LENT] = ",".join(gpus)


def take_gpus(count: int) -> list[str]:
    """Wait until `count` of the shared devices are free, lock them, and hide all others from this process.

    Call this before CUDA is used. Returns the names of the devices. With `count` 0, all devices are hidden, as on a
    cluster. If `count` is larger than the number of devices, it is reduced to it, as Snakemake does with resources.
    Without shared devices, nothing changes, and the list is empty.
    """
    lent = [name for name in os.environ.get(LENT, "").split(",") if name]
    if not lent:
        return []
    taken = _wait_for(min(count, len(lent)), lent) if count else {}
    os.environ[DEVICES] = ",".join(taken)
    return list(taken)


def _wait_for(count: int, lent: Sequence[str]) -> dict[str, int]:
    """Lock `count` devices or none: two jobs that each hold a part of their devices would wait forever."""
    folder = _folder()
    while True:
        # One job at a time: two jobs could take devices from each other again and again.
        with locked(folder / "choosing", announce=False):
            free = _lock_free_gpus(count, lent, folder)
            if len(free) == count:
                return free
            _release(free.values())
        time.sleep(_POLL_SECONDS)


def _lock_free_gpus(count: int, lent: Sequence[str], folder: Path) -> dict[str, int]:
    locks: dict[str, int] = {}
    for name in lent:
        if len(locks) == count:
            break
        lock = take_lock(folder / ("gpu-" + re.sub(r"[^\w.-]", "_", name)))
        if lock is not None:
            locks[name] = lock
    return locks


def _release(locks: Iterable[int]) -> None:
    for lock in locks:
        give_lock_back(lock)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"rebend-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
