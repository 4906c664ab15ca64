from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rebend.checkpoints import Checkpoints
from rebend.config.blocks import ValueBlock
from rebend.errors import DataError, ModelError
from rebend.shards import Activations
from rebend.storage import read_parquet
from rebend.value_training import METRICS, METRICS_FILE, objective, returns, split_by_prompt, train_value
from rebend.values import FACTS, WEIGHTS, Shape, load_value, new_network, save_value
from tests.unit.state_files import write_activations

D = 12
CPU = torch.device("cpu")
SETTINGS = ValueBlock(
    activations="a", reward="r", n_layers=3, hidden_size=24, lr=5.0e-3, batch_size=16, epochs=6, validation_share=0.2
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """120 responses to 60 prompts; the reward is written into every state, and noisier at the beginning."""
    rng = torch.Generator().manual_seed(0)
    states, rewards = {}, {}
    for i in range(120):
        reward = float(torch.randn((), generator=rng))
        n = 3 + i % 5
        noise = torch.linspace(2.0, 0.1, n)[:, None]
        one = torch.randn(n, D, generator=rng) * noise
        one[:, 0] += reward
        states[f"row{i // 2}/{i % 2}"], rewards[f"row{i // 2}/{i % 2}"] = one, reward
    folder = write_activations(tmp_path_factory.mktemp("world") / "activations", states, shards=3)
    return folder, rewards


def train(world, output: Path, checkpoints: Path, settings: ValueBlock = SETTINGS, cache: int = 10**9):
    folder, rewards = world
    output.mkdir()
    return train_value(Activations(folder, cache), rewards, settings, output, Checkpoints(checkpoints), CPU)


def batch(lengths=(3, 1, 4), seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, D, generator=rng), float(i + 1)) for i, n in enumerate(lengths)]


def loss_by_hand(net, responses, *, through_target: bool = False) -> torch.Tensor:
    """The paper's objective, written as loops over one response at a time."""
    total = torch.zeros(())
    for states, reward in responses:
        values = net(states)
        for t in range(len(states) - 1):
            target = values[t + 1] if through_target else values[t + 1].detach()
            total = total + (values[t] - target) ** 2
        total = total + (values[-1] - reward) ** 2
    return total / len(responses)


def gradients(net, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def test_the_loss_is_the_papers():
    net, data = new_network(Shape(D, 24, 2), 0), batch()
    torch.testing.assert_close(objective(net, data, 0.0, CPU), loss_by_hand(net, data))


def test_no_gradient_goes_through_the_target():
    net, data = new_network(Shape(D, 24, 2), 0), batch()
    ours = gradients(net, objective(net, data, 0.0, CPU))
    torch.testing.assert_close(ours, gradients(net, loss_by_hand(net, data)))
    assert not torch.allclose(ours, gradients(net, loss_by_hand(net, data, through_target=True)))


def test_the_reward_belongs_to_the_last_token_not_to_the_first():
    lengths, rewards = torch.tensor([3, 1, 2]), torch.tensor([10.0, 20.0, 30.0])
    values = torch.arange(6.0)
    assert returns(values, lengths, rewards, 0.0).tolist() == [1.0, 2.0, 10.0, 20.0, 5.0, 30.0]


def test_lambda_one_fits_the_reward_at_every_token_and_others_lie_between():
    lengths, rewards = torch.tensor([3, 1]), torch.tensor([10.0, 20.0])
    values = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert returns(values, lengths, rewards, 1.0).tolist() == [10.0, 10.0, 10.0, 20.0]
    second = 0.5 * 2.0 + 0.5 * 10.0
    assert returns(values, lengths, rewards, 0.5).tolist() == [0.5 * 1.0 + 0.5 * second, second, 10.0, 20.0]


def test_all_responses_to_a_prompt_are_on_the_same_side(world):
    folder, rewards = world
    train_ids, held = split_by_prompt(Activations(folder).responses(), rewards, 0.2, 0)
    assert len(train_ids) + len(held) == 120
    assert len(held) == 24
    prompts = [{name.rsplit("/", 1)[0] for name in side} for side in (train_ids, held)]
    assert not prompts[0] & prompts[1]
    assert split_by_prompt(Activations(folder).responses(), rewards, 0.2, 1)[1] != held


def test_responses_without_a_reward_are_left_out_and_too_few_are_refused(world):
    folder, rewards = world
    some = {name: rewards[name] for name in list(rewards)[:40]}
    train_ids, held = split_by_prompt(Activations(folder).responses(), some, 0.2, 0)
    assert {*train_ids, *held} == set(some)
    with pytest.raises(DataError, match="at least 2"):
        split_by_prompt(Activations(folder).responses(), {"row0/0": 1.0}, 0.2, 0)


def test_it_learns_what_the_states_say(world, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 25, "trace": 0.9})
    facts = train(world, tmp_path / "v", tmp_path / "c", settings)
    metrics = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert len(metrics) == 25
    assert metrics[-1]["train_loss"] < 0.5 * metrics[0]["train_loss"]
    assert facts["rank_last"] > 0.9 > facts["rank_first"] > 0
    assert [row["epoch"] for row in metrics if row["chosen"]] == [facts["epoch"]]
    assert facts["epoch"] == min(metrics, key=lambda row: row["held_out_error"])["epoch"]


def test_the_chosen_epoch_is_the_one_that_is_saved(world, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 12, "lr": 0.1})  # so high that the last epoch is not the best
    facts = train(world, tmp_path / "v", tmp_path / "c", settings)
    assert facts["epoch"] < 12
    shorter = settings.model_copy(update={"epochs": facts["epoch"]})
    train(world, tmp_path / "s", tmp_path / "d", shorter)
    assert (tmp_path / "v" / WEIGHTS).read_bytes() == (tmp_path / "s" / WEIGHTS).read_bytes()


def test_memory_or_disk_changes_nothing_but_the_speed(world, tmp_path):
    train(world, tmp_path / "memory", tmp_path / "c")
    train(world, tmp_path / "disk", tmp_path / "d", cache=0)
    assert (tmp_path / "memory" / WEIGHTS).read_bytes() == (tmp_path / "disk" / WEIGHTS).read_bytes()


def test_a_training_stopped_in_the_middle_of_an_epoch_ends_in_the_same_bytes(world, tmp_path, monkeypatch):
    train(world, tmp_path / "whole", tmp_path / "c")
    steps = []
    real = Checkpoints.after_step

    def stops(self, make_state):
        steps.append(1)
        if len(steps) == 17:
            self.save(make_state())
            raise KeyboardInterrupt
        real(self, make_state)

    monkeypatch.setattr(Checkpoints, "after_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train(world, tmp_path / "first", tmp_path / "d")
    train(world, tmp_path / "second", tmp_path / "d")
    assert len(steps) < 17 + 6 * 7  # the steps taken before are not taken again
    for name in (WEIGHTS, METRICS_FILE, FACTS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_seed_decides(world, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(world, tmp_path / name, tmp_path / f"p{name}", SETTINGS.model_copy(update={"seed": seed, "epochs": 1}))
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c


def test_a_training_that_explodes_is_an_error_that_names_the_key(world, tmp_path):
    with pytest.raises(DataError, match="`lr`"):
        train(world, tmp_path / "v", tmp_path / "c", SETTINGS.model_copy(update={"lr": 1e20}))


def test_a_checkpoint_stores_its_shape_and_comes_back(tmp_path):
    for n_layers in (2, 3):
        net = new_network(Shape(D, 24, n_layers), 0)
        folder = tmp_path / str(n_layers)
        folder.mkdir()
        save_value(folder, net, {"fingerprint": "abc"})
        loaded = load_value(folder, "abc", D)
        states = torch.randn(4, D)
        assert torch.equal(loaded(states), net(states))
        assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_network_of_another_model_is_refused(tmp_path):
    save_value(tmp_path, new_network(Shape(D, 24, 2), 0), {"fingerprint": "abc"})
    with pytest.raises(ModelError, match=r"trained on model abc, this is def"):
        load_value(tmp_path, "def", D)
    with pytest.raises(ModelError, match=f"states of {D} numbers, the model's have 16"):
        load_value(tmp_path, "abc", 16)


def test_weights_that_do_not_fit_their_shape_or_are_damaged_are_named(tmp_path):
    save_value(tmp_path, new_network(Shape(D, 24, 2), 0), {"fingerprint": "abc"})
    facts = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps({**facts, "shape": {**facts["shape"], "n_layers": 3}}))
    with pytest.raises(ModelError, match="does not have the shape"):
        load_value(tmp_path, "abc", D)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:50])
    with pytest.raises(DataError, match=WEIGHTS):
        load_value(tmp_path, "abc", D)


def test_rank_correlations_are_null_where_there_is_nothing_to_rank(world, tmp_path):
    folder, rewards = world
    (tmp_path / "v").mkdir()
    constant = dict.fromkeys(rewards, 1.0)
    settings = SETTINGS.model_copy(update={"epochs": 1})
    train_value(Activations(folder), constant, settings, tmp_path / "v", Checkpoints(tmp_path / "c"), CPU)
    (row,) = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert row["rank_last"] is None
    assert np.isfinite(row["held_out_loss"])
