"""A long stage that SIGTERM and SIGKILL stop at random times writes the same bytes as an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout
from tests.workflow.jobs import Job, copy_of

# One job of each stage that takes long with real models, by its record.
JOBS = [
    "results/models/micro.run.json",
    "results/reward_models/micro_reward.run.json",
    "results/adapters/micro/micro_adapter.run.json",
    "results/models/micro+micro_adapter.run.json",
    "results/activations/micro+micro_adapter/micro_rollouts/states-00000-of-00002.run.json",
    "results/activations/micro+micro_adapter/micro_rollouts.run.json",
    "results/rewards/micro+micro_adapter/micro_rollouts/micro_reward.run.json",
    "results/value_models/micro+micro_adapter/micro_value.run.json",
    "results/strengths/micro+micro_adapter/micro_climb.run.json",
    "results/responses/micro+micro_adapter/micro_test/micro_climb.run.json",
    "results/responses/micro+micro_adapter/micro_test/micro_best.run.json",
    "results/completions/micro+micro_adapter/micro_safety/micro_embedding/micro_none.run.json",
    "results/completions/micro+micro_adapter/micro_safety/micro_prefilling/micro_none.run.json",
    "results/scores/reward/micro_reward/micro+micro_adapter/micro_test/micro_none.run.json",
    "results/capability/micro+micro_adapter/micro_questions.run.json",
    "results/safety_verdicts/micro_truth/micro+micro_adapter/micro_safety/direct/micro_none.run.json",
]


@pytest.fixture(scope="module")
def copy(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return copy_of(built, tmp_path_factory.mktemp("kills") / "copy")


@pytest.mark.parametrize("record", JOBS)
def test_stage_killed_several_times_ends_in_the_same_bytes(copy: Checkout, server: str, record: str) -> None:
    job = Job(copy, record, server)
    before, rng = job.facts, random.Random(record)
    job.forget()
    for number in (signal.SIGTERM, signal.SIGKILL):
        status = job.kill_after(rng.uniform(0, before["seconds"]), number)
        assert job.record.exists() or status != 0
        if job.record.exists():  # the signal came when all results were written
            assert job.digests() == before["digests"]
            job.forget()
    status, output = job.run()
    assert status == 0, output
    assert job.digests() == before["digests"] == Job(copy, record, server).facts["digests"]
    assert not list(copy.folder.glob("results/**/.*.part"))
    assert not Path(copy.folder / "results/progress" / job.stage / before["key"]).exists()


def with_twin(job: Job) -> tuple[subprocess.Popen[str], int, subprocess.Popen[str]]:
    """Start a job, stop its worker (SIGSTOP), and start the job again, which waits for the stopped worker.

    Returns the first process, the id of its worker, and the second process.
    """
    orphan = job.start()
    while (worker := job.owner()) is None:
        assert orphan.poll() is None, "the job ended before it had a lock"
        time.sleep(0.002)
    os.kill(worker, signal.SIGSTOP)
    twin = job.start()
    assert twin.stderr is not None
    while "waiting for it" not in (line := twin.stderr.readline()):
        assert line, "the second process did not wait"
    return orphan, worker, twin


@pytest.mark.parametrize("record", JOBS[:5] + JOBS[9:11])
def test_second_process_of_a_job_waits_and_keeps_the_results_of_the_first(
    copy: Checkout, server: str, record: str
) -> None:
    job = Job(copy, record, server)
    digests = job.facts["digests"]
    job.forget()
    orphan, worker, twin = with_twin(job)
    os.kill(worker, signal.SIGCONT)
    output = twin.communicate(timeout=120)[1]
    orphan.communicate(timeout=120)
    assert (orphan.returncode, twin.returncode) == (0, 0), output + job.log()
    assert job.digests() == digests
    assert f"{job.stage}: another process made these results in the meantime" in output


def test_second_process_of_a_job_makes_the_results_if_the_first_dies(copy: Checkout, server: str) -> None:
    job = Job(copy, JOBS[0], server)
    digests = job.facts["digests"]
    job.forget()
    orphan, worker, twin = with_twin(job)
    os.kill(worker, signal.SIGKILL)
    output = twin.communicate(timeout=120)[1]
    assert orphan.wait() != 0
    assert twin.returncode == 0, output + job.log()
    assert job.digests() == digests


def test_two_snakemakes_make_a_result_once(checkout: Checkout) -> None:
    """Needs `--nolock`; Snakemake's own lock would refuse the second process."""
    command = checkout.command(
        "results/models/micro", "--nolock", change={"models": {"micro": {"tiny": {"steps": 60}}}}
    )
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, cwd=checkout.folder, env=checkout.environment(), text=True, stdout=pipe, stderr=pipe)
        for _ in range(2)
    ]
    outputs = ["".join(process.communicate(timeout=300)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0] + outputs[1]
    assert "another process made these results in the meantime" in outputs[0] + outputs[1]
    assert not list(checkout.folder.glob("results/**/.*.part"))
