"""Rewards of all responses: each from its own prompt, resumed after a kill, and refused if none is a number."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from rebend.config.rewards import RewardBlock
from rebend.errors import DataError, ModelError
from rebend.io.chunks import ChunkStore
from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import PROMPTS, SCORES
from rebend.models.rewards.model import RewardModel, load_reward_model
from rebend.recontrol.value_model import reward_labels
from rebend.recontrol.value_model.activation_store import ACTIVATION_RESPONSES
from rebend.recontrol.value_model.reward_labels import label_rewards
from tests.helpers.small_policy import PROMPTS as MESSAGES
from tests.helpers.small_policy import prompt_rows


@pytest.fixture
def model(reward_folder):
    return load_reward_model(reward_folder, RewardBlock(local="x", batch_size=3))


@pytest.fixture
def files(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Return files of eight prompts, and of two responses to each prompt but the third. Sets blocks of three."""
    monkeypatch.setattr(reward_labels, "_BLOCK", 3)
    write_parquet(tmp_path / "prompts.parquet", pa.Table.from_pylist(prompt_rows(), PROMPTS))
    rows = [
        {"response_id": f"row{i}/{s}", "row_id": f"row{i}", "response": text, "n_tokens": 1, "finish": "eos"}
        for i in range(8)
        if i != 2
        for s, text in enumerate((f"take the lamp {i}", "" if i == 4 else "no"))
    ]
    write_parquet(tmp_path / "responses.parquet", pa.Table.from_pylist(rows, ACTIVATION_RESPONSES))
    return tmp_path / "prompts.parquet", tmp_path / "responses.parquet"


def test_every_response_gets_the_reward_of_its_own_prompt(model, files, tmp_path):
    prompts, responses = files
    counts = label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(None))
    assert counts == {"rows": 14, "not_scored": 0}
    scores = read_parquet(tmp_path / "r.parquet", SCORES).to_pylist()
    rows = read_parquet(responses).to_pylist()
    assert [row["row_id"] for row in scores] == [row["response_id"] for row in rows]
    for row, response in zip(scores, rows, strict=True):
        (alone,) = model.score([MESSAGES[int(response["row_id"][3:])]], [response["response"]])
        assert row["score"] == pytest.approx(alone, abs=1e-4)


def test_finished_blocks_are_not_scored_again(model, files, tmp_path, monkeypatch):
    prompts, responses = files
    label_rewards(model, prompts, responses, tmp_path / "whole.parquet", ChunkStore(None))
    real, calls = RewardModel.forward, []

    def killed(self, encoded):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, encoded)

    monkeypatch.setattr(RewardModel, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(tmp_path / "parts"))
    assert not (tmp_path / "r.parquet").exists()
    label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(tmp_path / "parts"))
    assert len(calls) == 3 + 3  # five blocks of one batch each, the third scored again
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_reward_model_that_returns_no_number_is_stopped_after_the_first_block(model, files, tmp_path, monkeypatch):
    prompts, responses = files
    model.head.weight.data.fill_(torch.nan)
    real, calls = RewardModel.forward, []
    monkeypatch.setattr(RewardModel, "forward", lambda self, encoded: calls.append(1) or real(self, encoded))
    with pytest.raises(ModelError, match=r"no number for any of the first 3 responses \(the score is nan\)"):
        label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(None))
    assert len(calls) == 1
    assert not (tmp_path / "r.parquet").exists()


def test_a_single_nan_is_not_scored_with_a_reason_and_a_warning(model, files, tmp_path, monkeypatch, capsys):
    prompts, responses = files
    real = RewardModel.forward

    def one_bad(self, encoded):
        rewards = real(self, encoded)
        return [float("nan"), *rewards[1:]] if len(encoded) == 2 else rewards  # the last block

    monkeypatch.setattr(RewardModel, "forward", one_bad)
    counts = label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(None))
    assert counts == {"rows": 14, "not_scored": 1}
    assert "WARNING: 1 of 14 responses were not scored" in capsys.readouterr().err
    missing = [row for row in read_parquet(tmp_path / "r.parquet", SCORES).to_pylist() if row["score"] is None]
    assert [row["not_scored"] for row in missing] == ["the score is nan"]


def test_responses_without_a_prompt_or_a_column_are_refused(model, files, tmp_path):
    prompts, responses = files
    write_parquet(prompts, read_parquet(prompts).slice(0, 5))
    with pytest.raises(DataError, match=r"response 'row5/0' belongs to no prompt"):
        label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(None))
    write_parquet(responses, read_parquet(responses).drop_columns("response"))
    with pytest.raises(DataError, match="column 'response' is missing"):
        label_rewards(model, prompts, responses, tmp_path / "r.parquet", ChunkStore(None))
