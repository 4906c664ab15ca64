"""Training of a reward model: its loss and micro-batches, LoRA, the checkpoint kept, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from rebend.config.rewards import RewardBlock, TrainedReward
from rebend.data.tiny_world.generate import generate
from rebend.errors import ConfigError, ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import check_checkpoint, load_tokenizer
from rebend.models.rewards.held_out import differences, mean_loss, pair_rewards, rewards
from rebend.models.rewards.model import load_reward_model
from rebend.models.rewards.pairs import Pair, Parts, divide, encode_pairs
from rebend.models.rewards.train import RewardTrainer, start_model, train_reward_model
from tests.helpers.tiny_parts import Stopped, StoppedAt, contents, make_model

ROWS = generate("preferences", 240, 0)
# the warm reply beats the same one, plain: learnt in a few steps
CLEAR = [{**row, "chosen": f"Gladly! {row['rejected']} Good luck!"} for row in ROWS]
FULL = {"steps": 12, "batch_size": 8, "micro_batch": 3, "lr": 5e-3, "lora_r": 4, "frozen_blocks": 1, "eval_every": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), steps=40)


def settings(**changed: Any) -> TrainedReward:
    return TrainedReward(model="m", dataset="d", **{"steps": 8, "batch_size": 8, "lr": 2e-3, **changed})


def train(base: Path, folder: Path, rows: list = CLEAR, checkpoints: Checkpoints | None = None, **changed: Any) -> dict:
    checkpoints = checkpoints or Checkpoints(folder / "progress")
    return train_reward_model(base, rows, settings(**changed), folder / "model", checkpoints)


def trainer(base: Path, folder: Path, **changed: Any) -> RewardTrainer:
    block = settings(**changed)
    tokenizer = load_tokenizer(base)
    model = start_model(base, tokenizer.pad_token_id, block)
    return RewardTrainer(model, divide(tokenizer, ROWS, None, block, 96), block, Checkpoints(folder / "progress"))


@pytest.fixture(scope="module")
def reward(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    train(base, folder, **FULL)
    return folder / "model"


def load(path):
    return load_reward_model(path, RewardBlock(local=str(path)))


def gradients(trainer: RewardTrainer, batch: list) -> dict[str, torch.Tensor]:
    """Return the gradients of a step whose optimiser does nothing and clips nothing."""
    kept: dict[str, torch.Tensor] = {}

    def keep() -> None:
        kept.update({name: weight.grad.clone() for name, weight in trainer.trained.items()})

    trainer.optimizer.step = keep
    trainer.step(batch)
    return kept


@pytest.mark.parametrize("lora_r", [0, 4])
def test_merged_checkpoint_can_be_loaded_as_a_reward_model(base, tmp_path, lora_r):
    train(base, tmp_path, ROWS, lora_r=lora_r)
    check_checkpoint(tmp_path / "model")
    scorer = load(tmp_path / "model")
    assert not [name for name, _ in scorer.model.named_parameters() if "lora" in name]
    encoded = [ids for pair in encode_pairs(scorer.tokenizer, ROWS[:6], 96) for ids in pair[:2]]
    messages = [row["messages"] for row in ROWS[:6] for _ in range(2)]
    responses = [row[key] for row in ROWS[:6] for key in ("chosen", "rejected")]
    with torch.no_grad():
        assert scorer.score(messages, responses) == pytest.approx(rewards(scorer.model, encoded).tolist(), abs=1e-5)


def test_rewards_are_read_at_the_last_token(reward):
    scorer = load(reward)
    encoded = [ids for pair in encode_pairs(scorer.tokenizer, ROWS[:8], 96) for ids in pair[:2]]
    assert len({len(ids) for ids in encoded}) > 1
    with torch.no_grad():
        together = rewards(scorer.model, encoded)
        alone = torch.cat([rewards(scorer.model, [ids]) for ids in encoded])
        by_model = torch.cat([scorer.model(input_ids=torch.tensor([ids])).logits[0] for ids in encoded])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, by_model, atol=1e-5)


def test_loss_is_that_of_bradley_and_terry(base, tmp_path):
    one = trainer(base, tmp_path, head_start="drawn", micro_batch=2)
    batch = one.parts.train[:5]
    with torch.no_grad():
        gaps = torch.cat([pair_rewards(one.model, [pair]) for pair in batch])
        expected = -functional.logsigmoid(gaps[:, 0] - gaps[:, 1]).mean().item()
    one.step(batch)
    assert one.losses == [pytest.approx(expected, rel=1e-4)]
    assert expected != pytest.approx(0.6931, abs=1e-3)  # the head is not zero, so that the loss says something


@pytest.mark.parametrize("change", [{"micro_batch": 3}, {"gradient_checkpointing": True}], ids=str)
def test_micro_batches_and_checkpointing_give_the_same_gradients(base, tmp_path, change):
    plain, other = (trainer(base, tmp_path, head_start="drawn", lora_r=0, **more) for more in ({}, change))
    batch = plain.parts.train[:8]  # 3 + 3 + 2 pairs
    expected, found = gradients(plain, batch), gradients(other, batch)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.allclose(expected[name], found[name], atol=1e-5), name
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2


def test_checkpointing_keeps_no_activations_inside_a_block(base, tmp_path):
    def saved_bytes(**more: Any) -> int:
        one, sizes = trainer(base, tmp_path, lora_r=0, **more), []
        weights = {weight.data_ptr() for weight in one.model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            pair_rewards(one.model, one.parts.train[:8])
        return sum(sizes)

    assert saved_bytes(gradient_checkpointing=True) < 0.5 * saved_bytes()


def test_only_adapter_and_head_are_trained_beyond_the_frozen_blocks(base, tmp_path):
    one = trainer(base, tmp_path, lora_r=4, frozen_blocks=1)
    before = {name: weight.clone() for name, weight in one.model.named_parameters()}
    for _ in range(2):  # the head is zero at first, and gives the adapter no gradient
        one.step(one.parts.train[:8])
    moved = {name for name, weight in one.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == set(one.trained)
    assert "score.weight" in moved
    assert {name for name in moved if "layers.1." in name and "lora_" in name} == moved - {"score.weight"}
    assert len(moved) == 1 + 2 * 7  # A and B of the seven linear modules of a Llama block


def test_frozen_blocks_without_lora_keep_their_weights(base, tmp_path):
    one = trainer(base, tmp_path, lora_r=0, frozen_blocks=1)
    frozen = {name for name in dict(one.model.named_parameters()) if name not in one.trained}
    assert frozen == {name for name, _ in one.model.named_parameters() if "embed" in name or "layers.0." in name}


def test_first_blocks_give_a_smaller_model_that_can_be_loaded(base, tmp_path):
    train(base, tmp_path, ROWS, n_blocks=1, steps=2)
    scorer = load(tmp_path / "model")
    assert scorer.model.config.num_hidden_layers == 1 == len(scorer.model.model.layers)


@pytest.mark.parametrize(("n_blocks", "frozen_blocks"), [(3, 0), (None, 2)])
def test_blocks_that_the_model_lacks_are_refused(base, tmp_path, n_blocks, frozen_blocks):
    with pytest.raises(ConfigError, match="the model has 2 decoder blocks"):
        train(base, tmp_path, n_blocks=n_blocks, frozen_blocks=frozen_blocks)


def test_lora_learns_a_clear_preference(base, tmp_path):
    facts = train(base, tmp_path, steps=40, lr=5e-3, lora_r=4)
    assert facts["held_out_pairs"] == 24
    assert facts["first_loss"] == 0.6931  # a head of zeros gives both answers the same reward
    assert facts["held_out_accuracy"] > 0.8 and not facts["held_out_at_chance"]
    assert facts["trained_weights"] < 0.3 * sum(p.numel() for p in load(tmp_path / "model").model.parameters())


def test_best_weights_are_kept_and_training_stops_early(base, tmp_path):
    one = trainer(base, tmp_path, steps=40, lr=5e-3, warm_up=0.0, eval_every=2, patience=2, head_start="drawn")
    clear = encode_pairs(load_tokenizer(base), CLEAR[:80], 96)
    swapped = [Pair(pair.rejected, pair.chosen, -pair.longer_by) for pair in clear[64:]]
    one.parts = Parts(clear[:64], swapped, clear[:1], 0)  # what is learnt makes the loss on `choice` rise
    one.run()
    assert one.facts()["best_step"] == 2 and one.facts()["steps"] == 6
    assert one.choices[0] < one.choices[1] < one.choices[2]
    assert mean_loss(differences(one.rewards_of, swapped)) == pytest.approx(one.choices[0], abs=1e-6)


HEAD = {"n_blocks": 1, "frozen_blocks": 1, "lora_r": 0, "steps": 60, "lr": 0.02, "micro_batch": 4, "eval_every": 9}


def test_head_alone_is_trained_on_states_that_are_made_once(base, tmp_path):
    one = trainer(base, tmp_path, **HEAD)
    assert list(one.trained) == ["score.weight"]
    passes = []
    one.model.base_model.register_forward_hook(lambda *_: passes.append(1))
    one.run()
    assert len(passes) == len(one.parts.train) + len(one.parts.choice)  # not 60 steps of eight pairs
    with torch.no_grad():
        expected = pair_rewards(one.model, one.parts.choice)
        assert torch.allclose(one.rewards_of(one.parts.choice), expected, atol=1e-5)
    assert len(one.facts()["choice_losses"]) >= 3 and min(one.choices) < 0.69


def test_killed_training_of_the_head_ends_in_the_same_bytes(base, tmp_path):
    train(base, tmp_path / "whole", **HEAD)
    with pytest.raises(Stopped):
        train(base, tmp_path / "two", checkpoints=StoppedAt(tmp_path / "two/progress", 20), **HEAD)
    train(base, tmp_path / "two", **HEAD)
    assert contents(tmp_path / "two/model") == contents(tmp_path / "whole/model")


@pytest.mark.parametrize("step", [3, 9])
def test_killed_training_ends_in_the_same_bytes(base, reward, tmp_path, step):
    with pytest.raises(Stopped):
        train(base, tmp_path, checkpoints=StoppedAt(tmp_path / "progress", step), **FULL)
    train(base, tmp_path, **FULL)
    assert contents(tmp_path / "model") == contents(reward)


def test_loss_of_nan_stops_the_training(base, tmp_path):
    one = trainer(base, tmp_path)
    one.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="step 1: the loss is nan"):
        one.step(one.parts.train[:4])
