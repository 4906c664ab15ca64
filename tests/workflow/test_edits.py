"""After an edit of code or configuration during a run, further jobs refuse to start."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.workflow.checkout import Checkout
from tests.workflow.jobs import copy_of

RESPONSES = "results/responses/micro/micro_test/micro_none.parquet"
CHANGE = {"models": {"micro": {"tiny": {"steps": 60}}}}


def edit(checkout: Checkout, module: str) -> None:
    file = checkout.folder / "src/rebend" / module
    file.write_text(file.read_text() + "\n_ADDED = 1\n")


def test_jobs_after_an_edit_fail_and_a_new_run_keeps_finished_results(checkout: Checkout) -> None:
    process = subprocess.Popen(
        checkout.command(RESPONSES, change=CHANGE),
        cwd=checkout.folder,
        env={**checkout.environment(), "REBEND_WARM": "off"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = checkout.folder / "results/logs/train_tiny_model/micro.log"
    while not log.exists():
        time.sleep(0.05)
        assert process.poll() is None
    edit(checkout, "recontrol/decode.py")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "ChangedError: decode: the code was edited during the run" in output
    model = checkout.folder / "results/models/micro/model.safetensors"
    written = model.stat().st_mtime_ns
    assert not (checkout.folder / RESPONSES).exists()
    again = checkout.snakemake(RESPONSES, change=CHANGE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert model.stat().st_mtime_ns == written


def test_cluster_job_fails_when_it_reads_another_configuration(built: Checkout, tmp_path: Path) -> None:
    """On a cluster each job is a new Snakemake process, which reads code and configuration again."""
    copy = copy_of(built, tmp_path / "copy")
    responses = RESPONSES.replace("micro/", "micro+micro_adapter/", 1)
    (plan,) = (copy.folder / "results/progress/plans").glob("*.json")
    options = (responses, "--no-hooks", "--nolock", "--force", "--allowed-rules", "decode")
    environment = {"REBEND_PLANNED": str(plan), "REBEND_WARM": "off"}
    same = copy.snakemake(*options, environment=environment)
    assert same.returncode == 0, same.stdout + same.stderr
    change = {"controls": {"micro_none": {"decoding": {"max_new_tokens": 9}}}}
    other = copy.snakemake(*options, environment=environment, change=change)
    assert other.returncode != 0
    assert "decode: the code or the configuration was edited during the run" in other.stdout + other.stderr
