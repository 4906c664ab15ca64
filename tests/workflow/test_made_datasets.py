"""Data sets made from others: joined ones, and pairs and chats sampled from a model, in the graph."""

from __future__ import annotations

import json
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from rebend.io.files import read_parquet
from rebend.io.schemas import CHAT, EVALUATION, SAFETY
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
CHATS = {
    "kind": "chat",
    "reader": "sampled_chats",
    "model": "micro",
    "prompts": ["micro_asked", "micro_test"],
    "judge": "micro_rules",
    "decoding": {"max_new_tokens": 8, "batch_size": 4},
    "near": {"encoder": "micro_encoder", "data": ["micro_near"], "cosine": 0.999},
    "without": ["micro_test_part"],
}
BLOCKS: dict[str, Any] = {
    "datasets": {
        "micro_first": {**WORLD, "source": {"world": {"part": "safety_validation", "rows": 16, "seed": 5}}},
        "micro_near": {**WORLD, "source": {"world": {"part": "safety_validation", "rows": 4, "seed": 5}}},
        "micro_asked": {"kind": "evaluation", "reader": "joined", "datasets": ["micro_first", "micro_near"]},
        "micro_sampled": PAIRS,
        "micro_test_part": {
            "kind": "prompts",
            "reader": "world",
            "source": {"world": {"part": "test", "rows": 8}},
            "rows": 2,
        },
        "micro_sampled_chats": CHATS,
        "micro_kept": {"kind": "chat", "reader": "joined", "datasets": ["micro_retain", "micro_sampled_chats"]},
    },
    "safety_judges": {"micro_rules": {"method": "refusal_matcher"}},
}
RESULT = "results/data/micro_sampled.parquet"
SAMPLED_CHATS = "results/data/micro_sampled_chats.parquet"
KEPT = "results/data/micro_kept.parquet"


def changed(section: str, block: str, **keys: Any) -> dict[str, Any]:
    return {**BLOCKS, section: {**BLOCKS[section], block: {**BLOCKS[section][block], **keys}}}


@pytest.fixture(scope="module")
def sampled(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the built checkout with the sampled pairs and chats."""
    checkout = copy_of(built, tmp_path_factory.mktemp("pairs") / "copy")
    done = checkout.snakemake(RESULT, KEPT, "--skip-script-cleanup", change=BLOCKS)
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


def prompts_of(checkout: Checkout, name: str) -> list[str]:
    table = read_parquet(checkout.folder / f"results/data/{name}.parquet")
    return [messages[0]["content"] for messages in table["messages"].to_pylist()]


def test_chats_are_of_harmless_prompts_that_other_data_lack_and_all_users_read_them(sampled: Checkout) -> None:
    file = sampled.folder / SAMPLED_CHATS
    chats = read_parquet(file, CHAT)["messages"].to_pylist()
    notes = json.loads(file.with_suffix(".run.json").read_text())["notes"]
    retain = sampled.folder / "results/data/micro_retain.parquet"
    assert len(chats) == notes["rows"] > 0
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(retain.stat().st_mode) == 0o644
    asked = read_parquet(sampled.folder / "results/data/micro_asked.parquet", EVALUATION).to_pylist()
    harmless = {row["messages"][0]["content"] for row in asked if not row["harmful"]}
    near = harmless & set(prompts_of(sampled, "micro_near"))
    others = set(prompts_of(sampled, "micro_test")) - set(prompts_of(sampled, "micro_test_part"))
    assert {chat[0]["content"] for chat in chats} <= harmless - near | others
    assert [len(chat) for chat in chats] == [2] * len(chats)
    assert notes["prompts"] == len(harmless - near | others)
    left_out = {
        "harmful prompt": sum(row["harmful"] for row in asked),
        "near a prompt of 'micro_near'": len(near),
        "prompt of 'micro_test_part'": 2,
    }
    assert notes["prompts_left_out"] == left_out and 0 not in left_out.values()


def test_joined_chats_are_the_rows_of_both(sampled: Checkout) -> None:
    files = ["results/data/micro_retain.parquet", SAMPLED_CHATS]
    rows = [row for file in files for row in read_parquet(sampled.folder / file).to_pylist()]
    assert read_parquet(sampled.folder / KEPT, CHAT).to_pylist() == rows


@pytest.mark.parametrize("name", ["micro_sampled", "micro_sampled_chats"])
def test_killed_sampling_ends_in_the_same_bytes(sampled: Checkout, server: str, name: str) -> None:
    job = Job(sampled, f"results/data/{name}.run.json", server)
    before = job.digests()
    job.forget()
    assert job.kill_after(0.05, signal.SIGKILL) != 0
    assert job.run()[0] == 0 and job.digests() == before


@pytest.mark.parametrize(
    ("section", "block", "keys", "stages"),
    [
        ("datasets", "micro_sampled", {"near": None}, {"sample_pairs"}),
        ("datasets", "micro_sampled", {"least": 2}, set()),
        ("datasets", "micro_sampled_chats", {"least": 2}, set()),
        ("datasets", "micro_sampled_chats", {"seed": 1}, {"sample_chats", "join_datasets"}),
        ("datasets", "micro_kept", {"datasets": ["micro_sampled_chats"]}, {"join_datasets"}),
        (
            "datasets",
            "micro_asked",
            {"datasets": ["micro_near"]},
            {"join_datasets", "embed_prompts", "sample_pairs", "sample_chats"},
        ),
    ],
)
def test_changed_key_runs_the_stages_that_depend_on_it(
    sampled: Checkout, section: str, block: str, keys: dict[str, Any], stages: set[str]
) -> None:
    done = sampled.snakemake(RESULT, KEPT, "--dry-run", change=changed(section, block, **keys))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE)) == stages


def test_finished_data_with_fewer_rows_than_least_are_refused_before_anything_uses_them(
    sampled: Checkout, tmp_path: Path
) -> None:
    checkout = copy_of(sampled, tmp_path / "copy")
    change = changed("datasets", "micro_sampled_chats", least=1000)
    (checkout.folder / KEPT).unlink()
    done = checkout.snakemake(KEPT, change=change)
    assert done.returncode != 0
    assert "datasets.micro_sampled_chats.least: 1000 chats are asked for, and " in done.stdout + done.stderr
    assert not re.search(r"^(?:local)?rule \w+:", done.stdout + done.stderr, re.MULTILINE)


def test_untrained_model_gives_no_pairs_in_the_eyes_of_the_exact_judge(sampled: Checkout, tmp_path: Path) -> None:
    checkout = copy_of(sampled, tmp_path / "copy")
    done = checkout.snakemake(RESULT, change=changed("safety_judges", "micro_rules", method="world_truth"))
    log = (checkout.folder / "results/logs/sample_pairs/micro_sampled.log").read_text()
    assert done.returncode != 0
    assert re.search(r"`least: 1` pairs are asked for, and 0 were kept .*left out: incoherent: \d+", log)
