"""Locks: one process or thread holds a lock at a time, and a dead process holds none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rebend.io.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from rebend.io.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Return a function that starts a process; the process holds the lock for the given seconds."""
    started: list[subprocess.Popen[str]] = []

    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock"), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_second_process_waits_and_reports_the_holder(tmp_path: Path, holder: Callable, capfd) -> None:
    process = holder(1.0)
    with locked(tmp_path / "a.lock") as waited:
        assert process.poll() is not None or not (tmp_path / "a.lock").samefile(os.devnull)
        assert waited
        assert process.wait(timeout=5) == 0
    assert f"process {process.pid} on" in capfd.readouterr().err
    with locked(tmp_path / "a.lock") as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == [tmp_path / "a.lock"]  # not deleted: another process may wait for it
    assert (tmp_path / "a.lock").read_text() == ""


def test_lock_of_a_killed_process_is_released(tmp_path: Path, holder: Callable) -> None:
    process = holder(99.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    with locked(tmp_path / "a.lock"):
        assert time.monotonic() - start < 5


def test_one_of_several_threads_holds_the_lock_at_a_time(tmp_path: Path) -> None:
    inside, most = [0], [0]
    # the lock file of a dead process
    (tmp_path / "a.lock").write_text("nobody")
    os.utime(tmp_path / "a.lock", (0, 0))

    def work() -> None:
        for _ in range(5):
            with locked(tmp_path / "a.lock"):
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
from rebend.io.locks import held_descriptors, locked
with locked(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], pass_fds=held_descriptors())
    print(child.pid, flush=True)
    child.wait()
"""


def test_child_process_keeps_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "a.lock")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    timer = threading.Timer(1.0, os.kill, (child, signal.SIGKILL))
    timer.start()
    start = time.monotonic()
    with locked(tmp_path / "a.lock") as waited:
        assert waited
        assert time.monotonic() - start > 0.9
    timer.join()
