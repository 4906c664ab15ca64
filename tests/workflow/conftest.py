"""The micro study, built once for all tests of the workflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the micro study is built; tests must leave its results as they are."""
    checkout = Checkout.make(tmp_path_factory.mktemp("built"))
    done = checkout.snakemake()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout in which nothing is built."""
    return Checkout.make(tmp_path)
