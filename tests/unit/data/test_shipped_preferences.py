"""The preference pairs that come with rebend, and the choice of one part of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rebend.config.datasets import DatasetBlock
from rebend.config.load import load_config
from rebend.data.datasets import prepare_dataset

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def blocks() -> dict[str, DatasetBlock]:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    return load_config({**raw, "study": "tiny"}, ROOT / "config/studies")["datasets"]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("smollm2_preferences", 1989),
        ("smollm2_harmless_preferences", 797),
        ("smollm2_helpful_preferences", 1192),
        ("smollm2_preferences_test", 200),
        ("smollm2_hh_prompts", 199),  # one prompt holds its answer
    ],
)
def test_each_block_has_the_pairs_of_its_part(blocks, name, rows):
    block = blocks[name]
    source = ROOT / "resources/data" / block.source.local
    prepared = prepare_dataset(block.model_copy(update={"without": []}), source)
    assert prepared.table.num_rows == rows


def test_training_pairs_and_test_prompts_share_no_first_question(blocks):
    def questions(name: str) -> set[str]:
        source = ROOT / "resources/data" / blocks[name].source.local
        prepared = prepare_dataset(blocks[name].model_copy(update={"without": []}), source)
        return {row["messages"][0]["content"] for row in prepared.table.to_pylist()}

    assert len(questions("smollm2_preferences")) > 1500
    assert not questions("smollm2_preferences") & questions("smollm2_hh_prompts")
