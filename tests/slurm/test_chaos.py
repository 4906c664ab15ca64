"""The tiny study under 25 disturbances on a real Slurm ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.disturbances import OF_EACH_KIND, Chaos
from tests.slurm.lab import NODES, Lab, at_once
from tests.slurm.results import digests
from tests.workflow.checkout import Checkout

STUDY = os.environ.get("REBEND_CHAOS_STUDY", "tiny")
SEED = int(os.environ.get("REBEND_CHAOS_SEED", "0"))
MINUTES = float(os.environ.get("REBEND_CHAOS_MINUTES", "90"))
# A pretended GPU for whatever works with the model of the tiny study.
CHANGE = {"models": {"tiny": {"resources": {"gpu": 1, "mem_mb": 2000, "runtime": 20}}}} if STUDY == "tiny" else {}
SHARE = 50  # a strike follows this share of all jobs; groups make fewer of them, and 25 strikes must find one that runs


@pytest.mark.chaos
@pytest.mark.timeout(2 * 60 * MINUTES)
def test_a_disturbed_study_has_the_results_of_an_undisturbed_one(lab: Lab, tmp_path: Path) -> None:
    quiet = Checkout.make(tmp_path / "quiet")
    done = quiet.snakemake(study=STUDY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    cluster = Cluster(lab, Checkout.make(tmp_path / "disturbed"), STUDY, CHANGE)
    diary = tmp_path / "diary.txt"
    try:
        jobs = sum(1 for _ in (quiet.folder / "results/benchmarks").rglob("*.tsv"))
        chaos = Chaos(cluster, SEED, diary, 60 * MINUTES, every=max(1, jobs // SHARE))
        assert chaos.to_the_end() == 0
        print(diary.read_text())
        assert len(chaos.struck) == 5 * OF_EACH_KIND, f"it ended before everything had struck:\n{diary.read_text()}"
    finally:
        cluster.end()

    expected, found = digests(quiet.folder / "results"), digests(cluster.checkout.folder / "results")
    assert {path for path in expected if path.startswith(("tables", "adapters", "values", "responses"))}
    assert found == expected
    if CHANGE:
        assert_no_gpu_was_shared(cluster)


def assert_no_gpu_was_shared(cluster: Cluster) -> None:
    """In Slurm's records each job with the model held one GPU, and never were there more than there are."""
    jobs = {job.job: job for job in cluster.jobs() if job.gpus}
    assert {job.gpus for job in jobs.values()} == {1}
    rules = ("train_adapter", "extract_activations", "choose_strength", "decode", "attack")
    assert all(any(f"rule_{rule}" in job.what for job in jobs.values()) for rule in rules)
    stays = [stay for stay in cluster.stays() if stay.job in jobs]
    assert at_once(stays) == cluster.lab.gpus == 2
    assert all(at_once([stay for stay in stays if stay.node == node]) == 1 for node in NODES)
