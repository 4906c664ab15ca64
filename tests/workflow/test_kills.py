"""Every long stage, ended at seeded moments by SIGTERM and by SIGKILL, ends in the bytes of an undisturbed run."""

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
def test_a_stage_that_is_killed_again_and_again_ends_in_the_same_bytes(
    copy: Checkout, server: str, record: str
) -> None:
    job = Job(copy, record, server)
    before, rng = job.facts, random.Random(record)
    job.forget()
    for how in (signal.SIGTERM, signal.SIGKILL):
        status = job.kill_after(rng.uniform(0, before["seconds"]), how)
        assert job.record.exists() == (status == 0)
        if status == 0:  # it was quicker than the kill
            assert job.digests() == before["digests"]
            job.forget()
    status, said = job.run()
    assert status == 0, said
    assert job.digests() == before["digests"] == Job(copy, record, server).facts["digests"]
    assert not list(copy.folder.glob("results/**/.*.part"))
    assert not Path(copy.folder / "results/progress" / job.stage / before["key"]).exists()


def with_twin(job: Job) -> tuple[subprocess.Popen[str], int, subprocess.Popen[str]]:
    """Start a job, stop its worker, and start it again: the two, and the worker, for which the second one waits."""
    orphan = job.start()
    while (worker := job.owner()) is None:
        assert orphan.poll() is None, "it ended before it was seen at work"
        time.sleep(0.002)
    os.kill(worker, signal.SIGSTOP)
    twin = job.start()
    assert twin.stderr is not None
    while "waiting for it" not in (line := twin.stderr.readline()):
        assert line, "it did not wait"
    return orphan, worker, twin


@pytest.mark.parametrize("record", JOBS[:5] + JOBS[9:11])
def test_an_orphan_and_its_twin_do_not_harm_each_other(copy: Checkout, server: str, record: str) -> None:
    job = Job(copy, record, server)
    digests = job.facts["digests"]
    job.forget()
    orphan, worker, twin = with_twin(job)
    os.kill(worker, signal.SIGCONT)
    said = twin.communicate(timeout=120)[1]
    orphan.communicate(timeout=120)
    assert (orphan.returncode, twin.returncode) == (0, 0), said + job.log()
    assert job.digests() == digests
    assert f"{job.stage}: another process made these results in the meantime" in said


def test_a_twin_takes_over_from_an_orphan_that_dies(copy: Checkout, server: str) -> None:
    job = Job(copy, JOBS[0], server)
    digests = job.facts["digests"]
    job.forget()
    orphan, worker, twin = with_twin(job)
    os.kill(worker, signal.SIGKILL)
    said = twin.communicate(timeout=120)[1]
    assert orphan.wait() != 0
    assert twin.returncode == 0, said + job.log()
    assert job.digests() == digests


def test_two_snakemakes_on_the_same_results_take_turns(checkout: Checkout) -> None:
    """With `--nolock`, which nobody should use: Snakemake's own lock refuses the second."""
    command = checkout.command(
        "results/models/micro", "--nolock", change={"models": {"micro": {"tiny": {"steps": 60}}}}
    )
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, cwd=checkout.folder, env=checkout.environment(), text=True, stdout=pipe, stderr=pipe)
        for _ in range(2)
    ]
    said = ["".join(process.communicate(timeout=300)) for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0] + said[1]
    assert "another process made these results in the meantime" in said[0] + said[1]
    assert not list(checkout.folder.glob("results/**/.*.part"))
