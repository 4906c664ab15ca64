"""A small reward model: its loss, the scored token, its checkpoint, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from rebend.config.rewards import RewardBlock, TinyReward
from rebend.data.tiny_world.generate import generate
from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import check_checkpoint
from rebend.models.rewards.model import load_reward_model
from rebend.models.rewards.tiny import accuracy, encode_pairs, rewards, train_tiny_reward_model
from tests.helpers.tiny_parts import Stopped, StoppedAt, contents, make_model

ROWS = generate("preferences", 240, 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), steps=40)


def settings(**changed):
    return TinyReward(model="tiny", dataset="preferences", **{"steps": 8, "batch_size": 8, "lr": 2e-3, **changed})


@pytest.fixture(scope="module")
def reward(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    train_tiny_reward_model(base, ROWS, settings(), folder / "model", Checkpoints(folder / "progress"))
    return folder / "model"


def load(path):
    return load_reward_model(path, RewardBlock(local=str(path)))


def test_checkpoint_can_be_loaded_as_a_reward_model(reward):
    check_checkpoint(reward)
    scorer = load(reward)
    assert scorer.model.config.num_labels == 1
    assert scorer.model.config.pad_token_id == scorer.tokenizer.pad_token_id
    encoded = [ids for pair in encode_pairs(scorer.tokenizer, ROWS[:6], 96) for ids in pair]
    messages = [row["messages"] for row in ROWS[:6] for _ in range(2)]
    responses = [row[key] for row in ROWS[:6] for key in ("chosen", "rejected")]
    assert scorer.score(messages, responses) == pytest.approx(rewards(scorer.model, encoded).tolist(), abs=1e-5)


def test_rewards_are_read_at_the_last_token(reward):
    scorer = load(reward)
    encoded = [ids for pair in encode_pairs(scorer.tokenizer, ROWS[:8], 96) for ids in pair]
    assert len({len(ids) for ids in encoded}) > 1
    together = rewards(scorer.model, encoded)
    alone = torch.cat([rewards(scorer.model, [ids]) for ids in encoded])
    assert torch.allclose(together, alone, atol=1e-5)
    by_model = torch.cat([scorer.model(input_ids=torch.tensor([ids])).logits[0] for ids in encoded])
    assert torch.allclose(together, by_model, atol=1e-5)


def test_loss_is_that_of_bradley_and_terry(base, tmp_path, monkeypatch):
    recorded = {}

    def keep(model, loss_of, batches, *rest):
        recorded.update(model=model, loss=loss_of(list(range(5))).item(), order=list(next(iter(batches))))
        return [1.0]

    monkeypatch.setattr("rebend.models.rewards.tiny.fit", keep)
    monkeypatch.setattr("rebend.models.rewards.tiny._split", lambda pairs, seed: (pairs, pairs))
    train_tiny_reward_model(base, ROWS[:20], settings(), tmp_path / "m", Checkpoints(tmp_path / "p"))
    pairs = encode_pairs(load(tmp_path / "m").tokenizer, ROWS[:5], 96)
    with torch.no_grad():
        gaps = [
            rewards(recorded["model"], [chosen]) - rewards(recorded["model"], [rejected]) for chosen, rejected in pairs
        ]
    assert recorded["loss"] == pytest.approx(-functional.logsigmoid(torch.cat(gaps)).mean().item(), rel=1e-4)


def test_training_raises_the_accuracy(base, tmp_path):
    # one clear preference, so that a model of this size must learn it: the warm reply beats the same one, plain
    rows = [{**row, "chosen": f"Gladly! {row['rejected']} Good luck!"} for row in generate("preferences", 800, 0)]
    facts = train_tiny_reward_model(
        base, rows, settings(steps=240, lr=5e-3), tmp_path / "m", Checkpoints(tmp_path / "p")
    )
    assert facts["pairs"] == 720
    assert facts["held_out_pairs"] == 80  # chance would be 0.5 ± 0.11
    assert facts["last_loss"] < 0.75 * facts["first_loss"]
    assert facts["held_out_accuracy"] > 0.7


def test_killed_training_ends_in_the_same_bytes(base, reward, tmp_path):
    with pytest.raises(Stopped):
        train_tiny_reward_model(base, ROWS, settings(), tmp_path / "m", StoppedAt(tmp_path / "progress", 5))
    train_tiny_reward_model(base, ROWS, settings(), tmp_path / "m", Checkpoints(tmp_path / "progress"))
    assert contents(tmp_path / "m") == contents(reward)


def test_accuracy_counts_a_tie_as_half(reward):
    scorer = load(reward)
    chosen, rejected = encode_pairs(scorer.tokenizer, ROWS[:1], 96)[0]
    assert {accuracy(scorer.model, [pair]) for pair in ((chosen, rejected), (rejected, chosen))} == {0.0, 1.0}
    scorer.model.score.weight.data.zero_()
    assert accuracy(scorer.model, [(chosen, rejected)]) == 0.5


def test_long_conversations_are_cut_at_their_beginning(reward):
    pieces = load(reward).tokenizer
    (whole, _), (short, _) = encode_pairs(pieces, ROWS[:1], 1000)[0], encode_pairs(pieces, ROWS[:1], 10)[0]
    assert short == whole[-10:]


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_too_few_pairs_are_refused(base, tmp_path, rows):
    with pytest.raises(DataError, match="at least 2"):
        train_tiny_reward_model(base, rows, settings(), tmp_path / "m", Checkpoints(tmp_path / "p"))
