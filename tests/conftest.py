"""Settings of all tests: the folder of real data, and skips on machines without data or a device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch is imported. On small tensors many threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


def shared_data() -> Path:
    """Return the folder of small real data sets: REBEND_SHARED, or `shared/data` beside the repository."""
    return Path(os.environ.get("REBEND_SHARED", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose data or device this machine does not have, with the reason."""
    data = shared_data()
    for item in items:
        if item.get_closest_marker("shared") and not data.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"real data sets are not at {data}"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
