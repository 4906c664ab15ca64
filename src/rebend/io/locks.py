"""One owner at a time for the progress of a stage.

A Snakemake that was killed leaves jobs behind, and the next one starts the same stage again, perhaps on another
machine. The lock is the kernel's where the file system has one, so that it goes with its owner however that ends
(NFS and Lustre with `flock` keep it over several machines). Elsewhere it is a file whose owner touches it; who has
not touched it for a minute is taken for dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_LOOK_EVERY = 0.5  # seconds
_BEAT_EVERY, _DEAD_AFTER = 5.0, 60.0
_held: list[int] = []  # descriptors of this process's locks


@contextmanager
def owned(lock: Path) -> Iterator[bool]:
    """Inside the block, no other process has `lock`; yields whether somebody else had it first."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        stream = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = _wait(lock, waited)
        except OSError as error:
            stream.close()
            if error.errno not in NO_LOCKS:
                raise
            with owned_by_touch(lock.with_suffix(".owner")) as waited:
                yield waited
            return
        else:
            if _is_still(lock, stream):
                break  # and not the file that the one before has just removed
        stream.close()
    _held.append(stream.fileno())
    try:
        stream.truncate(0)
        stream.write(_name())
        stream.flush()
        yield waited
    finally:
        _held.remove(stream.fileno())
        lock.unlink(missing_ok=True)
        stream.close()


def owned_locks() -> list[int]:
    """Descriptors that a process which goes on with the work has to inherit (`pass_fds`)."""
    return list(_held)


@contextmanager
def owned_by_touch(lock: Path, beat_every: float = _BEAT_EVERY, dead_after: float = _DEAD_AFTER) -> Iterator[bool]:
    """As `owned`, for file systems without locks: a file that its owner touches every `beat_every` seconds."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        try:
            with lock.open("x", encoding="utf-8") as stream:
                stream.write(_name())
            break
        except FileExistsError:
            if _age(lock) > dead_after:
                _take_away(lock, dead_after)
            else:
                waited = _wait(lock, waited)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, ended, beat_every), daemon=True)
    beat.start()
    try:
        yield waited
    finally:
        ended.set()
        beat.join()
        lock.unlink(missing_ok=True)


def _wait(lock: Path, waited: bool) -> bool:
    """Say once who is waited for, and wait a moment."""
    if not waited:
        with suppress(OSError):
            who = lock.read_text(encoding="utf-8") or "another process"
            print(f"{lock.with_suffix('')}: {who} is at the same work; waiting for it", file=sys.stderr, flush=True)
    time.sleep(_LOOK_EVERY)
    return True


def _is_still(lock: Path, stream: TextIO) -> bool:
    try:
        return os.fstat(stream.fileno()).st_ino == lock.stat().st_ino
    except FileNotFoundError:
        return False


def _beat(lock: Path, ended: threading.Event, every: float) -> None:
    while not ended.wait(every):
        with suppress(OSError):
            os.utime(lock)


def _age(lock: Path) -> float:
    """Seconds since the lock was touched, by the clock of whoever keeps the files; 0 if it is gone."""
    probe = lock.with_name(f".{lock.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        probe.touch()
        return probe.stat().st_mtime - lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _take_away(lock: Path, dead_after: float) -> None:
    """Remove the lock of a dead owner; of several who find it, one does."""
    mine = lock.with_name(f".{lock.name}.{uuid.uuid4().hex[:8]}.part")
    with suppress(FileNotFoundError):
        lock.rename(mine)
        if _age(mine) <= dead_after:  # somebody else was quicker, and this is already his
            with suppress(FileExistsError):
                lock.hardlink_to(mine)
        mine.unlink()


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
