"""The data that comes with the repository, through the blocks of the catalogue."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from rebend.config.datasets import DatasetBlock
from rebend.config.load import Config, load_config
from rebend.data.datasets import prepare_dataset
from rebend.data.joined import join
from rebend.io.checksums import file_digest
from rebend.io.prompts import prompts_in
from rebend.io.schemas import PROMPTS

ROOT = Path(__file__).parents[3]
DATA = ROOT / "resources/data"


@pytest.fixture(scope="module")
def catalogue() -> Config:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    return load_config({**raw, "study": "tiny"}, ROOT / "config/studies")


def prepared(catalogue: Config, name: str) -> pa.Table:
    block: Any = catalogue["datasets"][name]
    if isinstance(block, DatasetBlock):
        return prepare_dataset(block, DATA / str(block.source.local)).table
    table, repeated = join([prepared(catalogue, part) for part in block.datasets], block.kind)
    assert repeated == 0
    return table


def test_parts_have_their_sizes_and_share_no_prompt(catalogue: Config) -> None:
    names = ("train_prompts", "validation_prompts", "harmbench", "xstest")
    tables = {name: prepared(catalogue, f"smollm2_{name}") for name in names}
    assert [table.num_rows for table in tables.values()] == [110, 30, 60, 450]
    prompts = {
        name: {key for messages in table["messages"].to_pylist() for key in prompts_in(messages)}
        for name, table in tables.items()
    }
    assert sum(map(len, prompts.values())) == 110 + 30 + 60 + 450 == len(set.union(*prompts.values()))
    assert Counter(tables["harmbench"]["group"].to_pylist()) == {"standard": 50, "contextual": 10}
    assert Counter(tables["xstest"]["harmful"].to_pylist()) == {True: 200, False: 250}
    for name, counts in (("train_prompts", {8, 9, 15}), ("validation_prompts", {1, 2, 5})):
        assert set(Counter(tables[name]["category"].to_pylist()).values()) == counts
        assert set(tables[name]["harmful"].to_pylist()) == {True}


def test_chats_of_training_validation_and_report_are_different_ones(catalogue: Config) -> None:
    chats = [prepared(catalogue, f"smollm2_{name}") for name in ("chats", "validation_chats", "held_out_chats")]
    assert [table.num_rows for table in chats] == [350, 50, 50]
    train, validation, report = ({key for m in t["messages"].to_pylist() for key in prompts_in(m)} for t in chats)
    assert train and not train & validation and not train & report and not validation & report


def test_harmless_questions_are_prompts_that_no_reported_data_has(catalogue: Config) -> None:
    tables = [prepared(catalogue, f"smollm2_{name}") for name in ("harmless_questions", "validation_harmless")]
    assert tables[0].schema.equals(PROMPTS) and [table.num_rows for table in tables] == [70, 20]
    other = {
        key
        for name in ("xstest", "harmbench", "chats", "held_out_chats")
        for messages in prepared(catalogue, f"smollm2_{name}")["messages"].to_pylist()
        for key in prompts_in(messages)
    }
    own = {key for table in tables for messages in table["messages"].to_pylist() for key in prompts_in(messages)}
    assert len(own) >= 70 and not own & other
    # Some validation questions are among those asked for training; `near` leaves their answers out.
    assert "smollm2_validation_harmless" in catalogue["datasets"]["smollm2_harmless_chats"].near.data


def test_the_page_of_the_data_states_the_digest_of_each_file() -> None:
    page = (DATA / "README.md").read_text(encoding="utf-8")
    files = ["strongreject/strongreject_60.csv", "simple_safety_tests/prompts_80.csv", "xstest/xstest_prompts.csv"]
    for name in (*files, "harmbench/behaviors_text_test.csv", "retain/chat_500.jsonl.gz"):
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert file_digest(DATA / name).removeprefix("sha256:") in line
