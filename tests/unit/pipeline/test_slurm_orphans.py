"""Orphans of a killed run, with a stand-in for `squeue`; tests/slurm uses a real Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rebend.pipeline.jobs.slurm_orphans import OrphanError, cancel_orphans, orphans, refuse_orphans

RUN = "rebend_9b1c7f9a-0c8e-4b68-9f0c-3a5d0f1c2b7e"


def squeue(folder: Path, text: str, status: int = 0) -> None:
    """Write a `squeue` that prints `text` and exits with `status`."""
    (folder / "queue").write_text(text)
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\ncat {folder}/queue\nexit {status}\n")
    program.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return tmp_path


def test_there_are_no_orphans_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert orphans(tmp_path) == []
    refuse_orphans(tmp_path)


def test_failing_squeue_stops_no_run(path: Path) -> None:
    squeue(path, "slurm_load_jobs error: Unable to contact slurm controller\n", status=1)
    refuse_orphans(path)


def test_jobs_of_other_folders_and_other_programs_are_no_orphans(path: Path) -> None:
    squeue(path, f"7|RUNNING|{RUN}|rule_train_adapter|/elsewhere\n8|RUNNING|mine|rule_x|{path}\n")
    assert orphans(path) == []


def test_orphan_of_this_folder_stops_a_run_and_is_named(path: Path) -> None:
    squeue(path, f"9|PENDING|{RUN}|rule_train_adapter_wildcards_m_b|{path}\n")
    with pytest.raises(OrphanError, match="9 PENDING train_adapter_wildcards_m_b"):
        refuse_orphans(path)


def test_job_that_contains_the_run_is_no_orphan(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(path, f"9|RUNNING|{RUN}|rule_train_adapter|{path}\n")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    refuse_orphans(path)


def test_jobs_of_an_active_run_are_not_cancelled(path: Path) -> None:
    squeue(path, f"9|RUNNING|{RUN}|rule_train_adapter|{path}\n")
    (path / "snakemake").write_text("print(flush=True)\ninput()\n")
    pipe = subprocess.PIPE
    active = subprocess.Popen([sys.executable, "./snakemake"], cwd=path, stdin=pipe, stdout=pipe)
    assert active.stdout is not None
    active.stdout.readline()  # from here on the process has its own name
    try:
        with pytest.raises(OrphanError, match=f"process {active.pid}"):
            cancel_orphans(path)
    finally:
        active.communicate(b"\n")
