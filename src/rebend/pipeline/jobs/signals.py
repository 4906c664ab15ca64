"""End the jobs of a local run when only the Snakemake process receives a signal.

A terminal sends Ctrl-C to every process of a run. `timeout`, a supervisor and the stop of a container send their signal
to the Snakemake process alone; Snakemake then starts no new job, and waits until the running ones have ended by
themselves, which takes hours for a training.
"""

from __future__ import annotations

import importlib
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SHELLS = ("sh", "bash")  # a shell ends before its script has saved its progress, so it receives no signal
_PAUSE_SECONDS = 0.5


def end_jobs_on_signals(spared: int | None) -> None:
    """Let SIGTERM and SIGINT end the jobs of this process before its own handler runs.

    Every job receives SIGTERM once, those that Snakemake starts during the shutdown too; a stage that takes long saves
    its progress then. `spared` is the id of a process that receives no signal, with all below it: the server of
    `rebend.pipeline.jobs.warm_start`, which ends its workers when their scripts end.
    """
    with suppress(ImportError):
        # Snakemake imports polars with its first script, and polars replaces the handler of SIGINT: import it before.
        importlib.import_module("polars")
    ending = threading.Event()
    for number in SIGNALS:
        signal.signal(number, _handler(signal.getsignal(number), spared, ending))


def _handler(own: Any, spared: int | None, ending: threading.Event) -> Callable[..., None]:
    """Return a signal handler that ends the jobs and then calls the handler `own`."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not ending.is_set():
            ending.set()
            threading.Thread(target=_end_jobs, args=(spared,), daemon=True).start()
        if callable(own):
            own(number, frame)

    return handle


def _end_jobs(spared: int | None) -> None:
    """Send SIGTERM to every process of the jobs once, until this process ends."""
    known: set[psutil.Process] = set()
    while True:
        for process in set(_processes_of_jobs(spared)) - known:
            known.add(process)
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        time.sleep(_PAUSE_SECONDS)


def _processes_of_jobs(spared: int | None) -> list[psutil.Process]:
    """Return the processes below this one, without shells and without those at and below `spared`."""
    every = psutil.Process().children(recursive=True)
    apart: set[int] = {spared} if spared is not None else set()
    processes = []
    for process in every:  # parents come before their children
        with suppress(psutil.NoSuchProcess):
            if process.pid in apart or process.ppid() in apart:
                apart.add(process.pid)
            elif process.name() not in _SHELLS:
                processes.append(process)
    return processes
