"""A job writes output and tracebacks to its log, and a record beside its result if it succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rebend.errors import DataError, DiskError
from rebend.pipeline.jobs.job import job
from tests.helpers.snakemake_job import python_path, snakemake_job


def test_log_holds_the_output_of_python_and_of_other_programs(tmp_path: Path) -> None:
    with job(snakemake_job(tmp_path, outputs=["result"], settings={"lr": 1})) as run:
        print("from python")
        subprocess.run(["echo", "from a program"], check=True)
        (tmp_path / "result").write_bytes(b"abc")
        run.note(rows=3)
    log = (tmp_path / "l.log").read_text()
    assert "from python" in log
    assert "from a program" in log
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["stage"] == "s"
    assert record["settings"] == {"lr": 1}
    assert record["notes"] == {"rows": 3}
    assert record["versions"]["pyarrow"]
    assert record["digests"] == {str(tmp_path / "result"): hashlib.sha256(b"abc").hexdigest()}


@pytest.mark.parametrize(
    ("error", "in_log"), [(KeyError("x"), "Traceback"), (DataError("file:3: bad"), "DataError: file:3: bad")]
)
def test_failure_is_logged_and_leaves_no_record(tmp_path: Path, error: Exception, in_log: str) -> None:
    log = tmp_path / "l.log"
    with (
        pytest.raises(type(error)),
        job(snakemake_job(tmp_path)),
    ):
        raise error
    assert in_log in log.read_text()
    assert not (tmp_path / "r.json").exists()


def test_progress_folder_depends_on_settings_and_inputs(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("a")

    def progress_folder(settings: dict, inputs: list[str]) -> Path:
        with job(snakemake_job(tmp_path, inputs=inputs, settings=settings)) as run:
            return run.progress

    first = progress_folder({"lr": 1}, [str(file)])
    assert progress_folder({"lr": 1}, [str(file)]) == first
    assert progress_folder({"lr": 2}, [str(file)]) != first
    file.write_text("bb")
    assert progress_folder({"lr": 1}, [str(file)]) != first


def make(tmp_path: Path, inputs: list[str]) -> Path:
    """Run a stage without results and return its progress folder."""
    with job(snakemake_job(tmp_path, inputs=inputs)) as run:
        return run.progress


def test_progress_folder_stays_when_an_input_is_rebuilt_with_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    folders = set()
    for _ in range(2):
        with job(snakemake_job(tmp_path, rule="first", outputs=["x.parquet"], record="x.run.json")):
            file.write_text("same")
            os.utime(file, (time.time(), time.time() + len(folders)))
        folders.add(make(tmp_path, [str(file)]))
    assert len(folders) == 1


def test_temporary_files_of_killed_jobs_are_deleted(tmp_path: Path) -> None:
    folder = make(tmp_path, [])
    ours, others = tmp_path / ".r.json.01234567.part", tmp_path / ".other.json.01234567.part"
    inside = folder / "deeper" / ".a.json.01234567.part"
    inside.parent.mkdir(parents=True)
    for path in (ours, others, inside):
        path.write_text("half")
    make(tmp_path, [])
    assert (ours.exists(), others.exists(), inside.exists()) == (False, True, False)


def test_error_is_printed_on_the_terminal_when_the_disk_is_full(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with (
        pytest.raises(DiskError),
        job(snakemake_job(tmp_path, log="/dev/full")),
    ):
        pass
    assert "DiskError: /dev/full: cannot be written, the disk is full" in capfd.readouterr().err


JOB = """
import sys, time
from pathlib import Path
from rebend.pipeline.jobs.job import job
from tests.helpers.snakemake_job import snakemake_job

with job(snakemake_job("", outputs=["x"], settings={"lr": sys.argv[1]})):
    Path("begun").touch()
    time.sleep(float(sys.argv[2]))
    Path("x").write_text(sys.argv[1])
"""


def test_job_of_an_older_run_does_not_overwrite_results_of_a_newer_run(tmp_path: Path) -> None:
    environment = {**os.environ, "REBEND_WARM": "off", "PYTHONPATH": python_path()}
    orphan = subprocess.Popen([sys.executable, "-c", JOB, "old", "2"], cwd=tmp_path, env=environment)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    subprocess.run([sys.executable, "-c", JOB, "new", "0"], cwd=tmp_path, env=environment, check=True)
    assert orphan.wait() == 0
    assert (tmp_path / "x").read_text() == "new"
    assert json.loads((tmp_path / "r.json").read_text())["settings"] == {"lr": "new"}
