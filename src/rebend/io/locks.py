"""Locks between processes and between threads: a lock has one holder at a time.

The kernel holds the lock (`flock`, through the library `filelock`) and releases it when its processes end, also after a
kill. NFS and Lustre with `flock` hold it across machines. On a file system without locks, work continues without a
lock: two processes may then do the same work, but files stay complete.

Lock files are never deleted: a process may be waiting for them.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of a file system without locks
_POLL_SECONDS = 0.1
_held: list[int] = []  # descriptors of this process's locks


@contextmanager
def locked(path: Path, *, announce: bool = True, private: bool = False) -> Iterator[bool]:
    """Hold the lock file `path` inside the block; yield whether another process or thread held it first.

    Waits as long as necessary; with `announce`, a message on standard error names the holder. With `private`, only the
    owner can read the folder, if this call creates it. Child processes that inherit the descriptors of
    `held_descriptors` keep the lock until they end.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
    descriptor = _open(path)
    try:
        waited = _wait(descriptor, path, announce)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        _held.append(descriptor)
        try:
            yield waited
        finally:
            _held.remove(descriptor)
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int | None:
    """Return the descriptor of a lock that this process keeps until it closes the descriptor or ends.

    Returns None, without waiting, if another process holds the lock.
    """
    descriptor = _open(path)
    if _try_lock(descriptor):
        _held.append(descriptor)
        return descriptor
    os.close(descriptor)
    return None


def give_lock_back(descriptor: int) -> None:
    """Release a lock that `take_lock` returned."""
    _held.remove(descriptor)
    os.close(descriptor)


def held_descriptors() -> list[int]:
    """Return the descriptors that a child process has to inherit (`pass_fds`) to keep this process's locks."""
    return list(_held)


# `filelock.FileLock` does not show its descriptor, and it unlocks explicitly, which would also end the lock of child
# processes. Therefore this module opens the descriptor and filelock locks it; closing its last copy ends the lock.
def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _try_lock(descriptor: int) -> bool:
    import filelock  # not at the top: Snakemake imports this module while parsing, and filelock takes 0.1 s

    return filelock.lock_descriptor(descriptor, blocking=False)


def _wait(descriptor: int, path: Path, announce: bool) -> bool:
    """Lock `descriptor`; return whether another holder had to end first."""
    import filelock

    try:
        if _try_lock(descriptor):
            return False
        if announce:
            holder = path.read_text(encoding="utf-8") or "another process"
            print(f"{path.with_suffix('')}: {holder} has the lock; waiting for it", file=sys.stderr, flush=True)
        filelock.lock_descriptor(descriptor, poll_interval=_POLL_SECONDS)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
