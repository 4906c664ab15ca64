"""A study on a real Slurm with the profile: a cancelled job and a killed Snakemake do not change the results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Run
from tests.slurm.lab import Job, Lab, max_concurrent
from tests.slurm.results import digests
from tests.workflow.checkout import Checkout

pytestmark = pytest.mark.slurm

STUDY = str(Path(__file__).with_name("short.yaml"))
# Jobs with the model get a simulated GPU.
CHANGE = {"models": {"micro": {"resources": {"gpu": 1, "mem_mb": 1500, "runtime": 20}}}}
MODEL_RULES = ("train_adapter", "merge_adapter", "decode", "attack")


class DisturbedRun:
    """A run with one cancelled job and one killed Snakemake, made once for all tests of this file."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.first = cluster.start()
        self.cancelled = self._cancel_one()
        self.orphans = self._kill()
        self.refused = self._start_beside_orphans()
        cluster.resume()
        self.last = cluster.start()
        self.status = self.last.wait(400)
        self.jobs = cluster.jobs()
        self.job_runs = cluster.job_runs()

    def _running(self, *rules: str) -> list[str]:
        queue = self.cluster.lab.queue()
        return [job for job, comment, _ in queue if comment.startswith(tuple(f"rule_{rule}" for rule in rules))]

    def _cancel_one(self) -> str:
        """Cancel a decoding job, and wait until Snakemake has submitted it again."""
        self.first.wait_until(lambda: bool(self._running("decode", "attack")))
        job = self._running("decode", "attack")[0]
        self.cluster.lab.call("scancel", job)
        self.first.wait_until(lambda: "Trying to restart" in self.first.output())
        return job

    def _kill(self) -> list[str]:
        """Kill Snakemake while jobs wait for a GPU; hold these jobs and return them."""
        self.first.wait_until(lambda: bool(self.cluster.lab.queue("PENDING")))
        self.first.kill()
        waiting = [job for job, _, _ in self.cluster.lab.queue("PENDING")]
        for job in waiting:
            self.cluster.lab.call("scontrol", "hold", job)
        return waiting

    def _start_beside_orphans(self) -> Run:
        """Unlock the folder and start again without cancelling the orphans, as a user might."""
        self.cluster.call(*self.cluster.checkout.command("--unlock", study=STUDY, change=CHANGE))
        run = self.cluster.start()
        run.wait(120)
        return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the study's results, built without a cluster."""
    checkout = Checkout.make(tmp_path_factory.mktemp("undisturbed"))
    done = checkout.snakemake(study=STUDY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return digests(checkout.folder / "results")


@pytest.fixture(scope="module")
def disturbed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DisturbedRun]:
    """The disturbed run with Slurm's records of its jobs."""
    cluster = Cluster(lab, Checkout.make(tmp_path_factory.mktemp("cluster")), STUDY, CHANGE)
    try:
        yield DisturbedRun(cluster)
    finally:
        cluster.end()


def of_rules(jobs: list[Job], *rules: str) -> list[Job]:
    """Return the jobs of some rules."""
    return [job for job in jobs if job.comment.startswith(tuple(f"rule_{rule}" for rule in rules))]


def test_results_equal_those_of_an_undisturbed_run(disturbed: DisturbedRun, undisturbed: dict[str, str]) -> None:
    assert disturbed.status == 0, disturbed.last.output()[-4000:]
    assert digests(disturbed.cluster.checkout.folder / "results") == undisturbed


def test_each_job_with_the_model_has_one_gpu_of_its_own(disturbed: DisturbedRun) -> None:
    with_gpu = {job.job for job in disturbed.jobs if job.gpus}
    assert {job.job for job in of_rules(disturbed.jobs, *MODEL_RULES)} == with_gpu
    assert {job.gpus for job in disturbed.jobs if job.gpus} == {1}
    job_runs = [run for run in disturbed.job_runs if run.job in with_gpu]
    assert max_concurrent(job_runs) == disturbed.cluster.lab.gpus == 2
    assert all(max_concurrent([run for run in job_runs if run.node == node]) == 1 for node in ("n1", "n2"))


def test_jobs_without_gpu_use_the_cpu_partition(disturbed: DisturbedRun) -> None:
    assert {job.partition for job in disturbed.jobs if job.gpus} == {"gpu"}
    assert {job.partition for job in disturbed.jobs if not job.gpus} == {"cpu"}


def test_cancelled_job_is_submitted_again_with_twice_the_memory(disturbed: DisturbedRun) -> None:
    first, second = [job for job in disturbed.jobs if job.comment == comment_of(disturbed, disturbed.cancelled)][:2]
    assert (first.job, first.state) == (disturbed.cancelled, "CANCELLED")
    assert (first.mem_mb, second.mem_mb) == (1500, 3000)


def comment_of(disturbed: DisturbedRun, number: str) -> str:
    """Return a job's comment."""
    return next(job.comment for job in disturbed.jobs if job.job == number)


def test_run_beside_the_jobs_of_a_killed_run_is_refused(disturbed: DisturbedRun) -> None:
    assert disturbed.orphans
    assert disturbed.refused.process.returncode != 0
    output = disturbed.refused.output()
    assert "left jobs in the queue" in output
    assert all(number in output for number in disturbed.orphans)
    assert "has been submitted" not in output


def test_no_two_jobs_write_a_result_at_a_time(disturbed: DisturbedRun) -> None:
    for comment in {job.comment for job in disturbed.jobs}:
        numbers = {job.job for job in disturbed.jobs if job.comment == comment}
        assert max_concurrent([run for run in disturbed.job_runs if run.job in numbers]) <= 1, comment


def test_short_jobs_share_an_allocation_of_the_size_of_one(disturbed: DisturbedRun) -> None:
    groups = of_rules(disturbed.jobs, "data_")
    assert len(groups) == 1
    assert (groups[0].cpus, groups[0].mem_mb) == (1, 8000)


def test_publishing_is_no_cluster_job(disturbed: DisturbedRun) -> None:
    assert of_rules(disturbed.jobs, "report_") and not [job for job in disturbed.jobs if "publish" in job.comment]
    assert (disturbed.cluster.checkout.folder / "results/report.html").is_file()


def test_jobs_and_logs_have_readable_names(disturbed: DisturbedRun) -> None:
    assert all(job.name.startswith("rebend_") for job in disturbed.jobs)
    logs = disturbed.cluster.checkout.folder / "results/logs/slurm"
    log_names = {log.stem for log in logs.rglob("*.log")}
    assert {job.job for job in disturbed.jobs if job.state == "COMPLETED"} <= log_names
    assert disturbed.cancelled in log_names
