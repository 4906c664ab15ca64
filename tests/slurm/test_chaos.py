"""The tiny study under 25 disturbances on a real Slurm ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.disturbances import OF_EACH_KIND, Chaos
from tests.slurm.lab import NODES, Lab, max_concurrent
from tests.slurm.results import digests
from tests.workflow.checkout import Checkout

STUDY = os.environ.get("REBEND_CHAOS_STUDY", "tiny")
SEED = int(os.environ.get("REBEND_CHAOS_SEED", "0"))
MINUTES = float(os.environ.get("REBEND_CHAOS_MINUTES", "90"))
# Jobs with the tiny study's model get a simulated GPU.
CHANGE = {"models": {"tiny": {"resources": {"gpu": 1, "mem_mb": 2000, "runtime": 20}}}} if STUDY == "tiny" else {}
SHARE = 50  # a disturbance after each 50th of the jobs: groups make fewer Slurm jobs, and 25 must hit a running one


@pytest.mark.chaos
@pytest.mark.timeout(2 * 60 * MINUTES)
def test_disturbed_study_has_the_results_of_an_undisturbed_one(lab: Lab, tmp_path: Path) -> None:
    undisturbed = Checkout.make(tmp_path / "undisturbed")
    done = undisturbed.snakemake(study=STUDY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    cluster = Cluster(lab, Checkout.make(tmp_path / "disturbed"), STUDY, CHANGE)
    log = tmp_path / "log.txt"
    try:
        jobs = sum(1 for _ in (undisturbed.folder / "results/benchmarks").rglob("*.tsv"))
        chaos = Chaos(cluster, SEED, log, 60 * MINUTES, every=max(1, jobs // SHARE))
        assert chaos.to_the_end() == 0
        print(log.read_text())
        assert len(chaos.done) == 5 * OF_EACH_KIND, f"the run ended before all disturbances:\n{log.read_text()}"
    finally:
        cluster.end()

    expected, results = digests(undisturbed.folder / "results"), digests(cluster.checkout.folder / "results")
    assert {path for path in expected if path.startswith(("tables", "adapters", "value_models", "responses"))}
    assert results == expected
    if CHANGE:
        check_gpus(cluster)


def check_gpus(cluster: Cluster) -> None:
    """Check that each job with the model had one GPU, and that no GPU had two jobs at a time."""
    jobs = {job.job: job for job in cluster.jobs() if job.gpus}
    assert {job.gpus for job in jobs.values()} == {1}
    rules = ("train_adapter", "extract_activations", "choose_strength", "decode", "attack")
    assert all(any(f"rule_{rule}" in job.comment for job in jobs.values()) for rule in rules)
    job_runs = [run for run in cluster.job_runs() if run.job in jobs]
    assert max_concurrent(job_runs) == cluster.lab.gpus == 2
    assert all(max_concurrent([run for run in job_runs if run.node == node]) == 1 for node in NODES)
