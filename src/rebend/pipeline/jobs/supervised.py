"""Wait for the process that does the work of a job, and measure it.

The process that Snakemake starts for a job does no work itself. It waits for another one, because a process that the
system kills can write no message: a fork of the warm server (`rebend.pipeline.jobs.warm_start`), or a fork of itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = "REBEND_MEASURED"  # variable with the folder of the notes that `rebend.pipeline.jobs.benchmarks` reads
WORKER = "REBEND_WORKER"  # variable with the process that does the work of a job
_GRACE_SECONDS = 60  # for a worker to save its progress after SIGTERM
_POLL_SECONDS = 0.02


class End(NamedTuple):
    """The end of a worker, and what it used with the processes that it waited for."""

    status: int  # as a shell gives it: 137 after SIGKILL
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0  # of the largest single process
    read_mib: float = 0.0
    written_mib: float = 0.0
    stopped: bool = False  # whether it was asked to stop
    memory_kills: int | None = None  # processes that the system has killed for memory meanwhile; None if not known

    @property
    def is_killed(self) -> bool:
        """Whether SIGKILL of somebody else ended the worker."""
        return self.status == 128 + signal.SIGKILL and not self.stopped


Report = Callable[[End], None]


def watch(worker: int, is_asked: Callable[[float], bool]) -> End:
    """Wait until the child `worker` ends. `is_asked(seconds)` waits that long, and returns whether to stop the worker.

    A worker that is asked to stop gets SIGTERM once, and SIGKILL after a minute.
    """
    start, kills, stop_time = time.monotonic(), _memory_kills(), None
    while True:
        done, status, usage = os.wait4(worker, os.WNOHANG)
        if done:
            break
        if stop_time is None:
            if is_asked(_POLL_SECONDS):
                os.kill(worker, signal.SIGTERM)
                stop_time = time.monotonic()
        else:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - stop_time > _GRACE_SECONDS:
                os.kill(worker, signal.SIGKILL)
    code, kills_now = os.waitstatus_to_exitcode(status), _memory_kills()
    return End(
        code if code >= 0 else 128 - code,
        time.monotonic() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
        usage.ru_inblock / 2**11,  # blocks of 512 bytes
        usage.ru_oublock / 2**11,
        stop_time is not None,
        None if kills is None or kills_now is None else kills_now - kills,
    )


def run_apart(report: Report) -> None:
    """Return in a fork of this process, which does the work; the process itself waits and exits with its status.

    `report` is called with the end of the work. The fork ends (SIGTERM) if the process is stopped or killed. Does
    nothing in a process that is a worker already.
    """
    if os.environ.get(WORKER) == str(os.getpid()):
        return
    asked: list[int] = []
    before = {number: signal.signal(number, lambda one, _: asked.append(one)) for number in _STOPPING}
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    worker = os.fork()
    if worker == 0:
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)
        threading.Thread(target=_end_after, args=(reader,), daemon=True).start()
        return
    os.close(reader)

    def is_asked(seconds: float) -> bool:
        time.sleep(0 if asked else seconds)
        return bool(asked)

    finish(watch(worker, is_asked), report)


_STOPPING = (signal.SIGTERM, signal.SIGINT)


def finish(end: End, report: Report) -> None:
    """Report the end of the work, note it for the benchmark, and exit with the status of the worker."""
    with suppress(OSError):  # a full disk: the status is more important
        note(end=end)
        report(end)
    os._exit(end.status)


def _end_after(reader: int) -> None:
    """End this process when the other end of a pipe closes, because the process that holds it has ended."""
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def note(worker: int | None = None, end: End | None = None) -> None:
    """Write the worker of this process, or its end, where `rebend.pipeline.jobs.benchmarks` looks for them.

    Snakemake measures the shell of a script: this process, or the one that started it. Does nothing outside a run.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    text = json.dumps({"worker": worker, "end": end and end._asdict()})
    for process in (os.getpid(), os.getppid()):
        new = Path(folder, f".{os.getpid()}.{process}")
        new.write_text(text, encoding="utf-8")
        new.replace(Path(folder, str(process)))


def _memory_kills() -> int | None:
    """Return the number of processes that the system has killed for memory since it started; None if not known."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
