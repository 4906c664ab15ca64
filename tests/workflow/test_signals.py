"""A signal to the Snakemake process alone ends its local jobs, and their progress is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.workflow.checkout import Checkout

LONG = {"models": {"micro": {"tiny": {"steps": 1_000_000}}}}  # a training of hours
SECONDS = 20


def jobs_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose working directory is a checkout."""
    processes = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("warm", [True, False])
def test_signal_to_snakemake_alone_ends_its_jobs(checkout: Checkout, number: signal.Signals, warm: bool) -> None:
    targets = [] if warm else ["results/models/micro"]  # the whole study has a warm server
    process = subprocess.Popen(
        checkout.command(*targets, change=LONG),
        cwd=checkout.folder,
        env=checkout.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        log = checkout.folder / "results/logs/train_tiny_model/micro.log"
        while not (log.exists() and "training" in log.read_text()):
            time.sleep(0.1)
            assert process.poll() is None, process.communicate()[0]
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode != 0, output
    assert not [p for p in jobs_in(checkout.folder) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not (checkout.folder / "results/models/micro.run.json").exists()
    assert list((checkout.folder / "results/progress/train_tiny_model").rglob("*.pt")), output
