"""Blocks of data sets."""

from __future__ import annotations

import pytest

from rebend.config.datasets import DataSource
from tests.helpers.hub_server import COMMIT


@pytest.mark.parametrize("files", [[], ["a/x.jsonl", "b/y.jsonl"], ["a/x.parquet", "b/x.parquet"]])
def test_source_refuses_hub_files_that_cannot_be_joined(files: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`file` names no file|joined only if"):
        DataSource(hub={"repo": "open/data", "revision": COMMIT, "file": files})  # type: ignore[arg-type]
