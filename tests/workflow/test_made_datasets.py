"""Data sets made from others: joined ones, and pairs sampled from a model, in the graph."""

from __future__ import annotations

import json
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from rebend.io.files import read_parquet
from rebend.io.schemas import EVALUATION, SAFETY
from tests.workflow.checkout import Checkout
from tests.workflow.jobs import Job, copy_of

WORLD = {"kind": "evaluation", "reader": "world"}
PAIRS = {
    "kind": "safety",
    "reader": "sampled_pairs",
    "model": "micro",
    "prompts": ["micro_asked"],
    "judge": "micro_rules",
    "safe": {"file": "../../../resources/data/refusals.csv"},
    "answers_per_prompt": 2,
    "decoding": {"max_new_tokens": 8, "temperature": 1.0, "batch_size": 4},
    "near": {"encoder": "micro_encoder", "data": ["micro_near"], "cosine": 0.999},
}
BLOCKS: dict[str, Any] = {
    "datasets": {
        "micro_first": {**WORLD, "source": {"world": {"part": "safety_validation", "rows": 16, "seed": 5}}},
        "micro_near": {**WORLD, "source": {"world": {"part": "safety_validation", "rows": 4, "seed": 5}}},
        "micro_asked": {"kind": "evaluation", "reader": "joined", "datasets": ["micro_first", "micro_near"]},
        "micro_sampled": PAIRS,
    },
    "safety_judges": {"micro_rules": {"method": "refusal_matcher"}},
}
RESULT = "results/data/micro_sampled.parquet"


def changed(section: str, block: str, **keys: Any) -> dict[str, Any]:
    return {**BLOCKS, section: {**BLOCKS[section], block: {**BLOCKS[section][block], **keys}}}


@pytest.fixture(scope="module")
def sampled(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the built checkout with the sampled pairs."""
    checkout = copy_of(built, tmp_path_factory.mktemp("pairs") / "copy")
    done = checkout.snakemake(RESULT, "--skip-script-cleanup", change=BLOCKS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return checkout


def test_pairs_are_rows_of_the_schema_that_only_their_owner_reads(sampled: Checkout) -> None:
    file = sampled.folder / RESULT
    rows = read_parquet(file, SAFETY).to_pylist()
    notes = json.loads(file.with_suffix(".run.json").read_text())["notes"]
    assert len(rows) == notes["rows"] == 2 * notes["pairs"] > 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o055 == 0o055  # other data sets in it stay readable
    asked = read_parquet(sampled.folder / "results/data/micro_asked.parquet", EVALUATION).to_pylist()
    near = read_parquet(sampled.folder / "results/data/micro_near.parquet", EVALUATION).to_pylist()
    prompts = {row["messages"][0]["content"] for row in asked if row["harmful"]}
    close = {row["messages"][0]["content"] for row in near if row["harmful"]}
    assert {row["messages"][0]["content"] for row in rows} <= prompts - close
    assert notes["prompts_left_out"]["near a prompt of 'micro_near'"] == len(close & prompts) > 0
    assert notes["prompts_left_out"]["harmless prompt"] == sum(not row["harmful"] for row in asked)
    log = (sampled.folder / "results/logs/sample_pairs/micro_sampled.log").read_text()
    assert f"{notes['prompts']} of {len(asked)} prompts are asked; left out: " in log


def test_killed_sampling_ends_in_the_same_bytes(sampled: Checkout, server: str) -> None:
    job = Job(sampled, "results/data/micro_sampled.run.json", server)
    before = job.digests()
    job.forget()
    assert job.kill_after(0.05, signal.SIGKILL) != 0
    assert job.run()[0] == 0 and job.digests() == before


@pytest.mark.parametrize(
    ("section", "block", "keys", "stages"),
    [
        ("datasets", "micro_sampled", {"near": None}, {"sample_pairs"}),
        ("datasets", "micro_asked", {"datasets": ["micro_near"]}, {"join_datasets", "embed_prompts", "sample_pairs"}),
    ],
)
def test_changed_key_runs_the_stages_that_depend_on_it(
    sampled: Checkout, section: str, block: str, keys: dict[str, Any], stages: set[str]
) -> None:
    done = sampled.snakemake(RESULT, "--dry-run", change=changed(section, block, **keys))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE)) == stages


def test_untrained_model_gives_no_pairs_in_the_eyes_of_the_exact_judge(sampled: Checkout, tmp_path: Path) -> None:
    checkout = copy_of(sampled, tmp_path / "copy")
    done = checkout.snakemake(RESULT, change=changed("safety_judges", "micro_rules", method="world_truth"))
    log = (checkout.folder / "results/logs/sample_pairs/micro_sampled.log").read_text()
    assert done.returncode != 0
    assert re.search(r"`least: 1` pairs are asked for, and 0 were kept .*left out: incoherent: \d+", log)
