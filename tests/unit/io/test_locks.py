"""Two processes at the same work: one at a time, and no dead owner keeps a lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rebend.io.locks import owned, owned_by_touch

Lock = Callable[[Path], AbstractContextManager[bool]]


def quick(lock: Path) -> AbstractContextManager[bool]:
    return owned_by_touch(lock, beat_every=0.1, dead_after=1.0)


LOCKS = pytest.mark.parametrize("take", [owned, quick], ids=["of_the_kernel", "by_touch"])
HOLDER = """
import sys, time
from pathlib import Path
from rebend.io.locks import owned, owned_by_touch
take = owned if sys.argv[2] == "owned" else lambda lock: owned_by_touch(lock, beat_every=0.1, dead_after=1.0)
with take(Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[str, float], subprocess.Popen[str]]]:
    """Starts a process that has the lock for so many seconds."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock"), kind, str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@LOCKS
def test_the_second_waits_and_knows_it(tmp_path: Path, holder: Callable, take: Lock, capfd) -> None:
    process = holder(take.__name__, 1.0)
    with take(tmp_path / "a.lock") as waited:
        assert process.poll() is not None or not (tmp_path / "a.lock").samefile(os.devnull)
        assert waited
        assert process.wait(timeout=5) == 0
    assert f"process {process.pid} on" in capfd.readouterr().err
    with take(tmp_path / "a.lock") as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == []


@LOCKS
def test_an_owner_that_was_killed_keeps_nothing(tmp_path: Path, holder: Callable, take: Lock) -> None:
    process = holder(take.__name__, 99.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    with take(tmp_path / "a.lock"):
        assert time.monotonic() - start < 5


def test_an_owner_that_lives_keeps_its_lock_longer_than_a_dead_one_could(tmp_path: Path, holder: Callable) -> None:
    process = holder("quick", 2.5)
    with quick(tmp_path / "a.lock"):
        assert process.wait(timeout=1) == 0


@LOCKS
def test_of_many_never_two_have_it(tmp_path: Path, take: Lock) -> None:
    inside, most = [0], [0]
    # A dead owner's file, which all of them find at once.
    (tmp_path / "a.lock").write_text("nobody")
    os.utime(tmp_path / "a.lock", (0, 0))

    def work() -> None:
        for _ in range(5):
            with take(tmp_path / "a.lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


PARENT = """
import subprocess, sys
from pathlib import Path
from rebend.io.locks import owned, owned_locks
with owned(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], pass_fds=owned_locks())
    print(child.pid, flush=True)
    child.wait()
"""


def test_a_child_that_goes_on_with_the_work_keeps_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "a.lock")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    ended = threading.Timer(1.0, os.kill, (child, signal.SIGKILL))
    ended.start()
    start = time.monotonic()
    with owned(tmp_path / "a.lock") as waited:
        assert waited
        assert time.monotonic() - start > 0.9
    ended.join()
