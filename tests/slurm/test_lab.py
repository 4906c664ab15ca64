"""The throw-away Slurm itself: what it takes down, and what it forgets when a node dies."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, missing

pytestmark = pytest.mark.slurm


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that know a lab's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    with pytest.raises(KeyError), Lab.running(tmp_path) as lab:
        lab.ask("sbatch", f"--output={tmp_path}/log/job.txt", "--wrap=srun sleep 600")
        end = time.monotonic() + 20
        while not any("sleep" in line for line in processes_of(tmp_path)):
            assert time.monotonic() < end
            time.sleep(0.1)
        raise KeyError("a test that fails")
    assert processes_of(tmp_path) == []


def test_a_job_of_a_killed_node_runs_again_on_another(lab: Lab) -> None:
    job = lab.ask("sbatch", "--parsable", "--requeue", "--output=/dev/null", "--wrap=sleep 3").strip()
    while not (running := [node for number, _, node in lab.queue() if number == job]):
        time.sleep(0.1)
    lab.kill_node(running[0])
    try:
        end = time.monotonic() + 60
        while [stay.state for stay in lab.stays() if stay.job == job] != ["NODE_FAIL", "COMPLETED"]:
            assert time.monotonic() < end, lab.stays()
            time.sleep(0.2)
    finally:
        lab.return_node(running[0])
        lab.wait_for_nodes()
    assert [stay.node for stay in lab.stays() if stay.job == job][1] != running[0]
