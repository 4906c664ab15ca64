"""Blocks of data sets."""

from __future__ import annotations

import pytest

from rebend.config.datasets import DatasetBlock, DataSource
from tests.helpers.hub_server import COMMIT


@pytest.mark.parametrize("files", [[], ["a/x.jsonl", "b/y.jsonl"], ["a/x.parquet", "b/x.parquet"]])
def test_source_refuses_hub_files_that_cannot_be_joined(files: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`file` names no file|joined only if"):
        DataSource(hub={"repo": "open/data", "revision": COMMIT, "file": files})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "prompts", "rows": 3}, "only kind evaluation has"), ({"kind": "evaluation"}, "give `rows` or `skip`")],
)
def test_stratified_needs_categories_and_a_draw(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetBlock(reader="table", source={"local": "x"}, stratified=True, **settings)  # type: ignore[arg-type]
