"""The micro study, built once for all tests of the workflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.warm_server import warm_server
from tests.workflow.checkout import Checkout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """A checkout in which the micro study is built; tests must leave its results as they are.

    Workers that run tests side by side share it.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "built"
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "results/report.html").exists():
            return Checkout(folder)
        checkout = Checkout.make(folder)
        done = checkout.snakemake("--skip-script-cleanup")  # jobs.py runs them again
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return checkout


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server that has imported what is heavy, for jobs that are started without Snakemake."""
    with warm_server() as address:
        yield address


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout in which nothing is built."""
    return Checkout.make(tmp_path)
