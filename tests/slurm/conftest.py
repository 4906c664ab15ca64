"""One temporary Slurm for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.lab import Lab, missing


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `chaos` unless the option -m names the mark."""
    for item in items:
        if item.get_closest_marker("chaos") and "chaos" not in (config.getoption("-m") or ""):
            item.add_marker(pytest.mark.skip(reason="takes long: make test-slurm"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Slurm with two nodes; skips the test where Slurm is missing and cannot be installed."""
    if reason := missing():
        pytest.skip(reason)
    with Lab.running(tmp_path_factory.mktemp("slurm")) as lab:
        yield lab
