"""What all tests share: where the real data lie, and which tests this machine can run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: small tensors on many threads wait for each other more than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


def shared_data() -> Path:
    """The folder of small real data sets; it lies beside the repository where there is one."""
    return Path(os.environ.get("REBEND_SHARED", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs data or a device that is not here."""
    data = shared_data()
    for item in items:
        if item.get_closest_marker("shared") and not data.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"real data sets are not at {data}"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
