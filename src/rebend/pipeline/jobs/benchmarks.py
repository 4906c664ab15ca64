"""Snakemake's benchmark files of jobs whose work is done in a process that Snakemake does not know.

Snakemake measures the shell of a script and the processes below it, twice a second at first and then every 30 s. The
worker of a warm job (`rebend.pipeline.jobs.warm_start`) is below the server instead. So the timer of this module counts
it, too. In the end it takes the CPU time and the bytes read and written that the kernel has measured, and the peak
memory of the largest process if that is more than every sample of all processes.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import snakemake.benchmark
from snakemake.benchmark import BenchmarkTimer

from rebend.pipeline.jobs.supervised import FOLDER, End


def measure_workers() -> tempfile.TemporaryDirectory[str]:
    """Let the benchmarks of this Snakemake process measure the workers of its jobs.

    Returns the folder of the jobs' notes; it is deleted with the returned object.
    """
    folder = tempfile.TemporaryDirectory(prefix="rebend-")
    os.environ[FOLDER] = folder.name
    timer: Any = partial(WorkerTimer, Path(folder.name))
    snakemake.benchmark.BenchmarkTimer = timer  # `benchmarked` looks it up for every job
    return folder


class WorkerTimer(BenchmarkTimer):  # type: ignore[misc]
    """Snakemake's timer of the process `pid`, with the worker in the note `folder/pid`."""

    def __init__(self, folder: Path, pid: int, record: Any, interval: int) -> None:
        super().__init__(pid, record, interval)
        self.main = _WithWorker(pid, folder / str(pid))

    def cancel(self) -> None:
        """End the sampling; write what the worker used in all to the record."""
        super().cancel()
        if self._timer is not None:
            self._timer.join()  # a sample that is being taken would overwrite the record
        if (end := self.main.end()) is None:
            return
        record = self.bench_record
        record.data_collected = True
        record.cpu_time = end.cpu_seconds
        record.cpu_usage = 100 * end.cpu_seconds  # `mean_load` is this, in percent, divided by the seconds of the job
        record.max_rss = max(record.max_rss or 0.0, end.peak_mib)
        record.io_in, record.io_out = end.read_mib, end.written_mib


class _WithWorker(psutil.Process):  # type: ignore[misc]
    """A process whose children include the worker in its note."""

    def __init__(self, pid: int, note: Path) -> None:
        super().__init__(pid)
        self._note = note

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        """Return the processes below this one and, from the note on, the worker and those below it."""
        own = super().children(recursive)
        with suppress(psutil.NoSuchProcess):
            if (number := self._read().get("worker")) is not None:
                worker = psutil.Process(number)
                return [*own, worker, *worker.children(recursive)]
        return own

    def end(self) -> End | None:
        """Return the end of the work, and delete the note; None for a script that notes nothing."""
        facts = self._read()
        self._note.unlink(missing_ok=True)
        return End(**facts["end"]) if facts.get("end") else None

    def _read(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            return dict(json.loads(self._note.read_text(encoding="utf-8")))
        return {}
