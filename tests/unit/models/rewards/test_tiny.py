"""The block `tiny`: all weights, one pass per step, and the same weights as before `trained` existed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rebend.config.rewards import TinyReward
from rebend.data.tiny_world.generate import generate
from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import load_tokenizer
from rebend.models.rewards.pairs import encode_pairs
from rebend.models.rewards.tiny import as_trained
from rebend.models.rewards.train import train_reward_model
from rebend.models.tiny_model import pad_right
from tests.helpers.tiny_parts import make_model

ROWS = generate("preferences", 240, 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), steps=40)


def train(base: Path, rows: list, folder: Path, **changed: object) -> dict:
    keys = {"steps": 8, "batch_size": 8, "lr": 2e-3, **changed}
    block = TinyReward(model="tiny", dataset="preferences", **keys)
    return train_reward_model(base, rows, as_trained(block), folder / "model", Checkpoints(folder / "progress"))


def test_one_step_is_that_of_a_plain_loop(base, tmp_path):
    train(base, ROWS[:20], tmp_path, steps=1, batch_size=18, seed=3)
    tokenizer = load_tokenizer(base)
    torch.manual_seed(3)  # head drawn with the block's seed
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    order = np.random.default_rng([3, 1]).permutation(20)
    pairs = [encode_pairs(tokenizer, ROWS[:20], 96)[i] for i in order[2:]]  # a tenth is held out
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    gaps = []
    for pair in pairs:
        states = [model.model(input_ids=pad_right([ids], 0)).last_hidden_state[0, -1] for ids in pair[:2]]
        gaps.append(model.score(states[0]) - model.score(states[1]))
    (-torch.nn.functional.logsigmoid(torch.cat(gaps))).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    for name, weight in model.named_parameters():
        assert torch.allclose(dict(trained.named_parameters())[name], weight, atol=2e-4), name
    first = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    moved = [(a - b).abs().max() for a, b in zip(trained.model.parameters(), first.model.parameters(), strict=True)]
    assert min(moved) > 1e-3  # all weights are trained, and far more than the tolerance above


def test_training_raises_the_accuracy(base, tmp_path):
    # one clear preference, so that a model of this size must learn it: the warm reply beats the same one, plain
    rows = [{**row, "chosen": f"Gladly! {row['rejected']} Good luck!"} for row in generate("preferences", 800, 0)]
    facts = train(base, rows, tmp_path, steps=240, lr=5e-3)
    assert facts["pairs"] == 720
    assert facts["held_out_pairs"] == 80  # chance would be 0.5 ± 0.11
    assert facts["last_loss"] < 0.75 * facts["first_loss"]
    assert facts["held_out_accuracy"] > 0.7 and not facts["held_out_at_chance"]


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_too_few_pairs_are_refused(base, tmp_path, rows):
    with pytest.raises(DataError, match="at least 2"):
        train(base, rows, tmp_path)
