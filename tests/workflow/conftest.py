"""Fixtures of the workflow's tests: the micro study, built once, and an empty checkout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.warm_server import warm_server
from tests.workflow.checkout import Checkout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """A checkout with the finished micro study, shared by parallel workers. Tests must not change its results."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "built"
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "results/report.html").exists():
            return Checkout(folder)
        checkout = Checkout.make(folder)
        done = checkout.snakemake("--skip-script-cleanup")  # `Job` in jobs.py runs the scripts again
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return checkout


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a warm server, for jobs that a test starts without Snakemake."""
    with warm_server() as address:
        yield address


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout without results."""
    return Checkout.make(tmp_path)
