"""A study on a real Slurm through the profile as it is: one cancelled job, one Snakemake killed, the same results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Run
from tests.slurm.lab import Job, Lab, at_once
from tests.slurm.results import digests
from tests.workflow.checkout import Checkout

pytestmark = pytest.mark.slurm

STUDY = str(Path(__file__).with_name("short.yaml"))
# A pretended GPU for whatever works with the model; nothing else is asked of the machine here.
CHANGE = {"models": {"micro": {"resources": {"gpu": 1, "mem_mb": 1500, "runtime": 20}}}}
MODEL_RULES = ("train_adapter", "merge_adapter", "decode", "attack")


class Story:
    """What happened, told once for all tests here."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.first = cluster.start()
        self.cancelled = self._cancel_one()
        self.left_behind = self._kill()
        self.refused = self._start_beside_orphans()
        cluster.resume()
        self.last = cluster.start()
        self.status = self.last.wait(400)
        self.jobs = cluster.jobs()
        self.stays = cluster.stays()

    def _running(self, *rules: str) -> list[str]:
        queue = self.cluster.lab.queue()
        return [job for job, what, _ in queue if what.startswith(tuple(f"rule_{rule}" for rule in rules))]

    def _cancel_one(self) -> str:
        """Cancel a decoding job, and wait until Snakemake has sent it again."""
        self.first.wait_until(lambda: bool(self._running("decode", "attack")))
        job = self._running("decode", "attack")[0]
        self.cluster.lab.ask("scancel", job)
        self.first.wait_until(lambda: "Trying to restart" in self.first.said())
        return job

    def _kill(self) -> list[str]:
        """Kill Snakemake while jobs wait for a GPU, and let them wait as long as it takes."""
        self.first.wait_until(lambda: bool(self.cluster.lab.queue("PENDING")))
        self.first.kill()
        waiting = [job for job, _, _ in self.cluster.lab.queue("PENDING")]
        for job in waiting:
            self.cluster.lab.ask("scontrol", "hold", job)
        return waiting

    def _start_beside_orphans(self) -> Run:
        """Do what a user may do who knows the lock only."""
        self.cluster.call(*self.cluster.checkout.command("--unlock", study=STUDY, change=CHANGE))
        run = self.cluster.start()
        run.wait(120)
        return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the study's results, built without a cluster."""
    checkout = Checkout.make(tmp_path_factory.mktemp("undisturbed"))
    done = checkout.snakemake(study=STUDY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return digests(checkout.folder / "results")


@pytest.fixture(scope="module")
def story(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The run, its mishaps, and what Slurm has to say about it."""
    cluster = Cluster(lab, Checkout.make(tmp_path_factory.mktemp("cluster")), STUDY, CHANGE)
    try:
        yield Story(cluster)
    finally:
        cluster.end()


def of(jobs: list[Job], *rules: str) -> list[Job]:
    """The jobs of some rules."""
    return [job for job in jobs if job.what.startswith(tuple(f"rule_{rule}" for rule in rules))]


def test_the_study_ends_well_and_with_the_same_bytes(story: Story, undisturbed: dict[str, str]) -> None:
    assert story.status == 0, story.last.said()[-4000:]
    assert digests(story.cluster.checkout.folder / "results") == undisturbed


def test_each_job_with_the_model_held_one_gpu_and_never_more_than_there_are(story: Story) -> None:
    with_gpu = {job.job for job in story.jobs if job.gpus}
    assert {job.job for job in of(story.jobs, *MODEL_RULES)} == with_gpu
    assert {job.gpus for job in story.jobs if job.gpus} == {1}
    stays = [stay for stay in story.stays if stay.job in with_gpu]
    assert at_once(stays) == story.cluster.lab.gpus == 2
    assert all(at_once([stay for stay in stays if stay.node == node]) == 1 for node in ("n1", "n2"))


def test_jobs_without_gpu_go_to_the_partition_without(story: Story) -> None:
    assert {job.partition for job in story.jobs if job.gpus} == {"gpu"}
    assert {job.partition for job in story.jobs if not job.gpus} == {"cpu"}


def test_a_cancelled_job_is_sent_again_with_twice_the_memory(story: Story) -> None:
    first, second = [job for job in story.jobs if job.what == what_of(story, story.cancelled)][:2]
    assert (first.job, first.state) == (story.cancelled, "CANCELLED")
    assert (first.mem_mb, second.mem_mb) == (1500, 3000)


def what_of(story: Story, number: str) -> str:
    """What a job does."""
    return next(job.what for job in story.jobs if job.job == number)


def test_a_run_beside_the_jobs_of_a_killed_one_is_refused(story: Story) -> None:
    assert story.left_behind
    assert story.refused.process.returncode != 0
    said = story.refused.said()
    assert "left jobs in the queue" in said
    assert all(number in said for number in story.left_behind)
    assert "has been submitted" not in said


def test_no_result_is_written_by_two_jobs_at_a_time(story: Story) -> None:
    for what in {job.what for job in story.jobs}:
        numbers = {job.job for job in story.jobs if job.what == what}
        assert at_once([stay for stay in story.stays if stay.job in numbers]) <= 1, what


def test_short_jobs_go_together_and_ask_for_what_one_of_them_needs(story: Story) -> None:
    groups = of(story.jobs, "data_")
    assert len(groups) == 1
    assert (groups[0].cpus, groups[0].mem_mb) == (1, 8000)


def test_the_last_step_is_none_that_a_killed_run_could_leave_behind(story: Story) -> None:
    assert of(story.jobs, "report_") and not [job for job in story.jobs if "publish" in job.what]
    assert (story.cluster.checkout.folder / "results/report.html").is_file()


def test_a_person_finds_jobs_and_logs(story: Story) -> None:
    assert all(job.name.startswith("rebend_") for job in story.jobs)
    logs = story.cluster.checkout.folder / "results/logs/slurm"
    kept = {log.stem for log in logs.rglob("*.log")}
    assert {job.job for job in story.jobs if job.state == "COMPLETED"} <= kept
    assert story.cancelled in kept
