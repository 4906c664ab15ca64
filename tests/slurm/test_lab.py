"""The temporary Slurm itself: it stops all its processes, and jobs of a killed node run again."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, missing

pytestmark = pytest.mark.slurm


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes with a lab's folder in their environment."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                commands.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return commands


def test_no_process_is_left_after_a_failure(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    with pytest.raises(KeyError), Lab.running(tmp_path) as lab:
        lab.call("sbatch", f"--output={tmp_path}/log/job.txt", "--wrap=srun sleep 600")
        end = time.monotonic() + 20
        while not any("sleep" in line for line in processes_of(tmp_path)):
            assert time.monotonic() < end
            time.sleep(0.1)
        raise KeyError("a test that fails")
    end = time.monotonic() + 20  # killed processes need a moment on a busy machine
    while left := processes_of(tmp_path):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_job_of_a_killed_node_runs_again_on_another(lab: Lab) -> None:
    job = lab.call("sbatch", "--parsable", "--requeue", "--output=/dev/null", "--wrap=sleep 3").strip()
    while not (nodes := [node for number, _, node in lab.queue() if number == job]):
        time.sleep(0.1)
    lab.kill_node(nodes[0])
    try:
        end = time.monotonic() + 60
        while [run.state for run in lab.job_runs() if run.job == job] != ["NODE_FAIL", "COMPLETED"]:
            assert time.monotonic() < end, lab.job_runs()
            time.sleep(0.2)
    finally:
        lab.return_node(nodes[0])
        lab.wait_for_nodes()
    assert [run.node for run in lab.job_runs() if run.job == job][1] != nodes[0]
