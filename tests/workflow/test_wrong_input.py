"""Wrong input stops a run before its first job, with one message that names the key and the mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from tests.workflow.checkout import MICRO, Checkout


def refused(checkout: Checkout, change: dict[str, Any], study: str = f"{MICRO}/study.yaml") -> str:
    """Run Snakemake, check that it failed without starting a job, and return its output."""
    done = checkout.snakemake(change=change, study=study)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert not list(checkout.folder.glob("results/logs/**/*.log")), "a job was started"
    return output


def with_data(file: Path) -> dict[str, Any]:
    source = {"local": str(file), "world": None}
    return {"datasets": {"micro_dialogues": {"kind": "chat", "reader": "ultrachat", "source": source}}}


def test_wrong_setting_is_refused(checkout: Checkout) -> None:
    output = refused(checkout, {"adapters": {"micro_adapter": {"lr": "1e-3", "alpah": 1}}})
    assert "adapters.micro_adapter.lr: '1e-3' is text to YAML" in output
    assert "Did you mean 'alpha'?" in output


def test_missing_data_file_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("")
    output = refused(checkout, with_data(tmp_path / "chat.jsonl"))
    assert "datasets.micro_dialogues" in output
    assert "Did you mean 'chats.jsonl'?" in output


def test_empty_data_file_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("")
    assert "chats.jsonl: the file is empty" in refused(checkout, with_data(tmp_path / "chats.jsonl"))


def test_data_file_without_a_column_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"message": []}\n')
    output = refused(checkout, with_data(tmp_path / "chats.jsonl"))
    assert "chats.jsonl:1" in output
    assert "column 'messages' is missing" in output
    assert "Did you mean 'message'?" in output or "message" in output


def test_missing_benchmark_file_is_refused(checkout: Checkout) -> None:
    output = refused(checkout, {"capabilities": {"micro_questions": {"source": {"local": "question.jsonl"}}}})
    assert "capabilities.micro_questions" in output
    assert "Did you mean 'questions.jsonl'?" in output


def test_gated_model_without_a_token_is_refused(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    hub = {"repo": "meta-llama/Meta-Llama-3-8B-Instruct", "revision": "0123456789ab", "gated": True}
    output = refused(checkout, {"models": {"micro": {"tiny": None, "hub": hub}}})
    assert "models.micro.hub: meta-llama/Meta-Llama-3-8B-Instruct is gated" in output
    assert "HF_TOKEN" in output


def test_judge_without_a_key_is_refused(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    output = refused(checkout, {}, study=f"{MICRO}/judged.yaml")
    assert "judges.micro_asked: OPENAI_API_KEY is not set" in output
    assert "safety_judges.micro_rubric: OPENAI_API_KEY is not set" in output


def folder_of(path: Path, *, tokenizer: bool = True, template: bool = True, vocab_size: int = 8) -> dict[str, Any]:
    """Write a model folder without real weights; return the settings that name it."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"num_hidden_layers": 2, "vocab_size": vocab_size}))
    (path / "model.safetensors").write_bytes(b"x")
    if tokenizer:
        Tokenizer(models.WordLevel({str(i): i for i in range(8)}, unk_token="0")).save(str(path / "tokenizer.json"))
    if template:
        (path / "chat_template.jinja").write_text("{{ messages }}")
    return {"local": str(path), "tiny": None}


def test_model_folder_without_tokenizer_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    output = refused(checkout, {"models": {"micro": folder_of(tmp_path / "m", tokenizer=False)}})
    assert "models.micro.local" in output
    assert "has no tokenizer" in output


def test_model_folder_without_chat_template_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    output = refused(checkout, {"models": {"micro": folder_of(tmp_path / "m", template=False)}})
    assert "has no chat template; name a file with the model's key `chat_template`" in output


def test_reward_model_with_too_small_a_vocabulary_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    output = refused(checkout, {"rewards": {"micro_reward": folder_of(tmp_path / "m", vocab_size=4)}})
    assert "rewards.micro_reward.local" in output
    assert "the tokenizer has 8 tokens, the model only 4" in output


def test_layer_beyond_a_local_model_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    change = {"models": {"micro": folder_of(tmp_path / "m")}, "adapters": {"micro_adapter": {"layers_window_size": 5}}}
    assert "reach hidden_states[5]; 'micro' has only 2 blocks" in refused(checkout, change)


def test_study_without_data_sets_is_refused(checkout: Checkout) -> None:
    (checkout.folder / "empty.yaml").write_text("title: t\ngrids:\n  - models: [micro]\n")
    assert "names no data set" in refused(checkout, {}, study="empty.yaml")


def test_missing_file_does_not_stop_a_dry_run(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.snakemake("--dry-run", change=with_data(tmp_path / "none.jsonl"))
    assert done.returncode == 0


def test_killed_run_is_resumed_and_keeps_finished_results(checkout: Checkout) -> None:
    """After SIGKILL, finished results are kept and unfinished ones are built again."""
    target = "results/models/micro"
    log = checkout.folder / "results/logs/train_tiny_model/micro.log"
    change = {"models": {"micro": {"tiny": {"steps": 400}}}}
    process = subprocess.Popen(
        checkout.command(target, change=change),
        cwd=checkout.folder,
        env=checkout.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not log.exists():
        time.sleep(0.1)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    data = checkout.folder / "results/data/micro_dialogues.parquet"
    finished = data.stat().st_mtime_ns
    assert not (checkout.folder / target).exists()
    assert checkout.snakemake("--unlock", target, change=change).returncode == 0
    again = checkout.snakemake(target, change={"models": {"micro": {"tiny": {"steps": 400}}}})
    assert again.returncode == 0, again.stdout + again.stderr
    assert data.stat().st_mtime_ns == finished
