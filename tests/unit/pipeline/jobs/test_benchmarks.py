"""Snakemake's benchmark of a job shows the process that does the work, with and without the warm server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import snakemake.benchmark
from snakemake.benchmark import BenchmarkRecord, BenchmarkTimer, benchmarked

from rebend.pipeline.jobs.benchmarks import measure_workers
from rebend.pipeline.jobs.supervised import FOLDER
from rebend.pipeline.jobs.warm_start import VARIABLE
from tests.helpers.snakemake_job import python_path
from tests.helpers.warm_server import warm_server

# 400 MB and two seconds of CPU time, the last second of it without a sample of the timer's first half minute
SCRIPT = """
import sys
sys.path[:0] = {path}
from rebend.pipeline.jobs.supervised import run_apart
from rebend.pipeline.jobs.warm_start import hand_over
hand_over()
run_apart(lambda end: None)
import time
filled = b"x" * 400_000_000
while time.process_time() < 2:
    pass
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a warm server."""
    with warm_server() as address:
        yield address


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the notes, with Snakemake's timer replaced."""
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.setattr(snakemake.benchmark, "BenchmarkTimer", BenchmarkTimer)
    with measure_workers() as name:
        yield Path(name)


def measured(script: str, tmp_path: Path, address: str) -> BenchmarkRecord:
    """Run a script as Snakemake does, in a shell; return its benchmark."""
    file = tmp_path / "script.py"
    file.write_text(script.format(path=python_path().split(os.pathsep)))
    shell = f"set -euo pipefail; {sys.executable} {file}"
    process = subprocess.Popen(["bash", "-c", shell], env={**os.environ, VARIABLE: address}, cwd=tmp_path)
    with benchmarked(process.pid) as record:
        assert process.wait() == 0
    return record


@pytest.mark.parametrize("warm", [True, False])
def test_benchmark_has_cpu_time_and_memory_of_the_worker(tmp_path: Path, server: str, folder: Path, warm: bool) -> None:
    record = measured(SCRIPT, tmp_path, server if warm else "off")
    assert 1.9 < record.cpu_time < 10
    assert 380 < record.max_rss < 2500  # MiB; a warm worker has torch in memory, too
    assert record.max_uss > 380  # sampled, and of the worker alone so large
    assert record.mean_load() == pytest.approx(100 * record.cpu_time / record.running_time)
    cells = record.to_tsv(False).split("\t")
    assert float(cells[2]) > 380 and float(cells[-1]) > 1.9


def test_other_scripts_are_measured_as_before(tmp_path: Path, folder: Path) -> None:
    record = measured("import time\nfilled = b'x' * 200_000_000\ntime.sleep(1.2)", tmp_path, "off")
    assert 190 < record.max_rss < 400
    assert not list(folder.iterdir())
