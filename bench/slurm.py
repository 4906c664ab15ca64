"""Overhead of a job on Slurm: alone, as a member of a group, and the same jobs without Slurm.

The data sets of the micro study are prepared three times, one job at a time, on a temporary Slurm (see
`tests/slurm/lab.py`). Figures are added to `bench/latest.json`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from latest import keep

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.slurm.cluster import Cluster  # noqa: E402
from tests.slurm.lab import Lab, missing  # noqa: E402
from tests.workflow.checkout import MICRO, Checkout  # noqa: E402

ONLY = ("--until", "prepare_dataset")


def main() -> None:
    """Measure, print the figures and add them to `bench/latest.json`."""
    if reason := missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        figures = without_slurm(Path(folder) / "local")
        with Lab.running(Path(folder) / "slurm") as lab:
            figures |= on_slurm(lab, Path(folder) / "alone", 1)
            figures |= on_slurm(lab, Path(folder) / "grouped", 20)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    keep(figures)


def without_slurm(folder: Path) -> dict[str, Any]:
    """Return seconds per job of a local Snakemake, with one job at a time and a new Python for each."""
    checkout = Checkout.make(folder)
    start = time.monotonic()
    done = checkout.snakemake(*ONLY, "--set-threads", "prepare_dataset=2", environment={"REBEND_WARM": "off"})
    assert done.returncode == 0, done.stderr[-2000:]
    wall = time.monotonic() - start
    jobs = _work(folder)
    return {"slurm_jobs": len(jobs), "slurm_local_s": round(wall / len(jobs), 2), "slurm_work_s": _median(jobs)}


def on_slurm(lab: Lab, folder: Path, members: int) -> dict[str, Any]:
    """Return the seconds of an allocation per job, and the part that is not the job's script."""
    cluster = Cluster(lab, Checkout.make(folder), f"{MICRO}/study.yaml", {})
    run = cluster.start(*ONLY, "--jobs", "1", "--group-components", f"data={members}")
    assert run.wait(1200) == 0, run.output()[-2000:]
    job_runs = cluster.job_runs()
    jobs = _work(folder)
    per_job = sum(run.end - run.start for run in job_runs) / len(jobs)
    name = "alone" if members == 1 else "grouped"
    return {f"slurm_{name}_s": round(per_job, 1), f"slurm_{name}_overhead_s": round(per_job - statistics.mean(jobs), 1)}


def _work(folder: Path) -> list[float]:
    """Return the seconds of each job's script, imports included."""
    return [
        json.loads(record.read_text(encoding="utf-8"))["seconds"]
        for record in (folder / "results/data").glob("*.run.json")
    ]


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


if __name__ == "__main__":
    main()
