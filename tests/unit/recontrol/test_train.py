from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rebend.config.value_models import ValueModelBlock
from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_json, read_parquet, write_parquet
from rebend.io.scores import score_table
from rebend.recontrol.value_model import examples
from rebend.recontrol.value_model.activation_store import Activations, key_of
from rebend.recontrol.value_model.audit import AUDIT_FILE, CURVE, CURVE_FILE, calibration, rank
from rebend.recontrol.value_model.examples import HELD_OUT, AUDITED, TRAIN, ValueData
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.loss import packed, returns, summed_loss
from rebend.recontrol.value_model.network import FACTS, WEIGHTS, Shape, ValueNetwork, new_network
from rebend.recontrol.value_model.train import METRICS, METRICS_FILE, objective, slices, train_value_model
from tests.helpers.state_files import write_activations

D = 12
CPU = torch.device("cpu")
SETTINGS = ValueModelBlock(
    activations="a", reward="r", n_layers=3, hidden_size=24, lr=5.0e-3, batch_size=16, epochs=6, validation_share=0.2
)
PUBLISHED = SETTINGS.model_copy(update={"variant": "released_code"})


def responses(count: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Responses, two to a prompt; the reward is written into every state, and noisier at the beginning."""
    rng = torch.Generator().manual_seed(0)
    states, rewards = {}, {}
    for i in range(count):
        reward = float(torch.randn((), generator=rng))
        n = 3 + i % 5
        one = torch.randn(n, D, generator=rng) * torch.linspace(2.0, 0.1, n)[:, None]
        one[:, 0] += reward
        states[f"row{i // 2}/{i % 2}"], rewards[f"row{i // 2}/{i % 2}"] = one, reward
    return states, rewards


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    states, rewards = responses(120)
    return write_activations(tmp_path_factory.mktemp("world") / "activations", states, shards=3, chunk=10), rewards


def train(world, output: Path, checkpoints: Path, settings: ValueModelBlock = SETTINGS):
    folder, rewards = world
    output.mkdir(parents=True)
    labels = rewards if isinstance(rewards, Labels) else Labels.of(rewards)
    return train_value_model(Activations(folder), labels, settings, output, Checkpoints(checkpoints), CPU)


def data_of(world, share=0.2, seed=0) -> ValueData:
    folder, rewards = world
    return ValueData(Activations(folder), Labels.of(rewards), share, seed)


def batch(lengths=(3, 1, 4), seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, D, generator=rng, dtype=dtype), float(i + 1)) for i, n in enumerate(lengths)]


def network(n_layers=2) -> ValueNetwork:
    return new_network(Shape(D, 24, n_layers), 0).double()


def papers_loss(net, responses, *, through_target: bool = False) -> torch.Tensor:
    """The paper's objective, written as loops over one response at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for states, reward in responses:
        values = net(states)
        for t in range(len(states) - 1):
            target = values[t + 1] if through_target else values[t + 1].detach()
            total = total + (values[t] - target) ** 2
        total = total + (values[-1] - reward) ** 2
    return total / len(responses)


def released_loss(net, responses) -> torch.Tensor:
    """The released code's, from its description: padded to the longest, a mask, argmax of the mask."""
    longest = max(len(states) for states, _ in responses)
    states = torch.zeros(len(responses), longest, D, dtype=torch.float64)
    mask = torch.zeros(len(responses), longest, dtype=torch.float64)
    for i, (one, _) in enumerate(responses):
        states[i, : len(one)], mask[i, : len(one)] = one, 1
    rewards = torch.tensor([reward for _, reward in responses], dtype=torch.float64)
    values = net(states)
    between = ((values[:, :-1] - values[:, 1:]) * mask[:, :-1] * mask[:, 1:]) ** 2
    at_reward = values.gather(1, mask.argmax(1)[:, None]).squeeze(1)
    return (between.sum() + ((at_reward - rewards) ** 2).sum()) / len(responses)


def gradients(net, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


@pytest.mark.parametrize("n_layers", [2, 3])
def test_corrected_is_the_papers_objective_in_value_and_gradient(n_layers):
    net, rows = network(n_layers), batch()
    ours, theirs = objective(net, rows, SETTINGS), papers_loss(net, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients(net, ours), gradients(net, theirs), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(
        gradients(net, objective(net, rows, SETTINGS)), gradients(net, papers_loss(net, rows, through_target=True))
    )


@pytest.mark.parametrize("n_layers", [2, 3])
def test_published_is_the_released_objective_in_value_and_gradient(n_layers):
    net, rows = network(n_layers), batch()
    ours, theirs = objective(net, rows, PUBLISHED), released_loss(net, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients(net, ours), gradients(net, theirs), rtol=1e-12, atol=1e-14)
    assert not torch.isclose(ours, objective(net, rows, SETTINGS))


def test_slices_of_a_batch_add_up_to_its_gradient():
    net, rows = network(), batch(lengths=(3, 1, 4, 9, 2))
    whole = gradients(net, objective(net, rows, SETTINGS))
    parts = list(slices(rows, 5))
    assert [len(states) for part in parts for states, _ in part] == [3, 1, 4, 9, 2]
    assert [len(part) for part in parts] == [2, 1, 1, 1]
    added = sum(gradients(net, objective(net, part, SETTINGS) * len(part) / len(rows)) for part in parts)
    torch.testing.assert_close(added, whole, rtol=1e-12, atol=1e-14)


def test_the_reward_belongs_to_the_last_token_not_to_the_first():
    lengths, rewards = torch.tensor([3, 1, 2]), torch.tensor([10.0, 20.0, 30.0])
    assert returns(torch.arange(6.0), lengths, rewards, 0.0).tolist() == [1.0, 2.0, 10.0, 20.0, 5.0, 30.0]
    zeros = torch.zeros(6)
    assert float(summed_loss(zeros, lengths, rewards, SETTINGS)) == 100 + 400 + 900
    first = torch.tensor([10.0, 0, 0, 20, 30, 0])
    assert float(summed_loss(first, lengths, rewards, PUBLISHED)) == 100 + 900  # the neighbours alone
    assert float(summed_loss(first, lengths, rewards, SETTINGS)) == 100 + 100 + 900 + 900


def test_lambda_one_fits_the_reward_at_every_token_and_others_lie_between():
    lengths, rewards = torch.tensor([3, 1]), torch.tensor([10.0, 20.0])
    values = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert returns(values, lengths, rewards, 1.0).tolist() == [10.0, 10.0, 10.0, 20.0]
    second = 0.5 * 2.0 + 0.5 * 10.0
    assert returns(values, lengths, rewards, 0.5).tolist() == [0.5 * 1.0 + 0.5 * second, second, 10.0, 20.0]
    nearly = returns(values, lengths, rewards, 1e-12)  # by the loop
    torch.testing.assert_close(nearly, returns(values, lengths, rewards, 0.0))


def test_released_code_has_no_td_lambda():
    with pytest.raises(ValueError, match="no λ-returns"):
        ValueModelBlock(activations="a", reward="r", variant="released_code", td_lambda=0.5)


def test_all_responses_to_a_prompt_are_on_the_same_side(world):
    data = data_of(world)
    assert (data.count(TRAIN), data.count(HELD_OUT), data.audited_prompts) == (96, 24, 12)
    pairs = data.sides.reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    expected = sorted(range(60), key=lambda i: key_of(f"0/row{i}"))[:12]
    assert sorted(np.flatnonzero(pairs[:, 0] & HELD_OUT)) == sorted(expected)
    assert (data_of(world, seed=1).sides != data.sides).any()


def test_the_audit_looks_at_whole_prompts_drawn_from_all_that_are_held_out(world, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "MAX_AUDITED", 9)
    data = data_of(world)
    assert (data.count(HELD_OUT), data.count(AUDITED), data.audited_prompts) == (24, 8, 4)
    by_digest = sorted(range(60), key=lambda i: key_of(f"0/row{i}"))[:12]
    looked_at = np.flatnonzero(data.sides.reshape(-1, 2)[:, 1] & AUDITED)
    assert sorted(looked_at) == sorted(by_digest[:4]) != sorted(by_digest)[:4]  # not those that come first
    facts = train(world, tmp_path / "value", tmp_path / "state")
    assert facts["held_out_responses"] == 24
    audit = json.loads((tmp_path / "value" / AUDIT_FILE).read_text())
    assert (audit["responses"], audit["prompts"]) == (8, 4)
    monkeypatch.setattr(examples, "MAX_AUDITED", 1)
    assert data_of(world).audited_prompts == 1


def test_responses_without_a_reward_are_left_out_and_too_few_are_refused(world):
    folder, rewards = world
    some = {name: rewards[name] for name in list(rewards)[:40]}
    data = ValueData(Activations(folder), Labels.of(some), 0.2, 0)
    assert data.count(TRAIN) + data.count(HELD_OUT) == 40
    seen = [reward for side in (TRAIN, HELD_OUT) for part in data.batches(side, 7) for _, reward in part]
    assert sorted(seen) == sorted(some.values())
    with pytest.raises(DataError, match="at least 2"):
        ValueData(Activations(folder), Labels.of({"row0/0": 1.0}), 0.2, 0)
    with pytest.raises(DataError, match="responses to 0 prompts"):
        ValueData(Activations(folder), Labels.of({}), 0.2, 0)


def test_each_pass_takes_every_response_once_in_an_order_of_its_own(world):
    data = data_of(world)
    plain = [reward for part in data.batches(TRAIN, 16) for _, reward in part]
    passes = []
    for epoch in (0, 1):
        parts = list(data.batches(TRAIN, 16, np.random.default_rng([0, epoch])))
        assert [len(part) for part in parts] == [16] * 6
        passes.append([reward for part in parts for _, reward in part])
        assert sorted(passes[-1]) == sorted(plain)
    assert plain != passes[0] != passes[1]
    again = [r for part in data.batches(TRAIN, 16, np.random.default_rng([0, 0])) for _, r in part]
    assert again == passes[0]


def test_a_response_goes_with_its_own_reward(world):
    folder, rewards = world
    states = {}
    made = Activations(folder)
    for group in made.groups():
        states |= {name: one.clone() for name, one in made.read(group).responses()}
    by_reward = {reward: states[name] for name, reward in rewards.items()}
    for part in data_of(world).batches(TRAIN, 16, np.random.default_rng(0)):
        assert all(torch.equal(one, by_reward[reward]) for one, reward in part)


def test_a_few_responses_of_a_row_group_do_not_hold_the_whole_of_it_in_memory(world):
    for part in data_of(world).batches(HELD_OUT, 5):
        assert all(states.untyped_storage().nbytes() <= 2 * states.nbytes for states, _ in part)


def test_the_number_of_shards_changes_no_byte_of_the_network(tmp_path):
    states, rewards = responses(60)
    made = []
    for shards in (1, 4):
        folder = write_activations(tmp_path / f"a{shards}", states, shards=shards, chunk=7)
        train((folder, rewards), tmp_path / f"v{shards}", tmp_path / f"c{shards}", SETTINGS)
        made.append(
            [(tmp_path / f"v{shards}" / name).read_bytes() for name in (WEIGHTS, METRICS_FILE, FACTS, AUDIT_FILE)]
        )
    assert made[0] == made[1]


def test_it_learns_what_the_states_say_and_says_so(world, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 25, "td_lambda": 0.9})
    facts = train(world, tmp_path / "v", tmp_path / "c", settings)
    metrics = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert len(metrics) == 25
    assert metrics[-1]["train_loss"] < 0.5 * metrics[0]["train_loss"]
    assert facts["rank_last"] > 0.9 > facts["rank_first"] > 0
    assert [row["epoch"] for row in metrics if row["chosen"]] == [facts["epoch"]]
    assert facts["epoch"] == min(metrics, key=lambda row: row["held_out_error"])["epoch"]
    assert facts["useful"] is True
    assert "12 prompts" in facts["reason"]
    found = read_json(tmp_path / "v" / AUDIT_FILE)
    assert found["rank"]["last"]["estimate"] > found["rank"]["first"]["estimate"]
    assert (found["prompts"], found["responses"]) == (12, 24)
    bins = found["calibration"]
    assert sum(one["n"] for one in bins) == 24
    assert bins[0]["predicted"] < bins[-1]["predicted"]
    assert bins[0]["actual"] < bins[-1]["actual"]
    assert 0 < found["variation"]["share_along"] < 1
    curve = read_parquet(tmp_path / "v" / CURVE_FILE, CURVE).to_pylist()
    assert (curve[0]["place"], curve[-1]["place"]) == (0.0, 1.0)
    assert curve[-1]["rank"] == pytest.approx(facts["rank_last"])
    assert curve[0]["rank"] == pytest.approx(facts["rank_first"])
    assert curve[-1]["ci_low"] < curve[-1]["rank"] < curve[-1]["ci_high"]


def test_a_network_that_knows_nothing_is_called_useless_in_the_record_and_the_log(world, tmp_path, capsys):
    folder, rewards = world
    order = np.random.default_rng(1).permutation(120)
    shuffled = dict(zip(rewards, np.array(list(rewards.values()))[order], strict=True))
    facts = train((folder, shuffled), tmp_path / "v", tmp_path / "c")
    assert facts["useful"] is False
    assert "not above 0" in facts["reason"]
    assert "WARNING: the value network is useless" in capsys.readouterr().err
    assert read_json(tmp_path / "v" / FACTS)["useful"] is False
    assert read_json(tmp_path / "v" / AUDIT_FILE)["reason"] == facts["reason"]


def test_the_released_objective_makes_a_network_that_hardly_moves_along_a_response(world, tmp_path):
    long = {"epochs": 25}
    train(world, tmp_path / "p", tmp_path / "c", PUBLISHED.model_copy(update=long))
    train(world, tmp_path / "m", tmp_path / "d", SETTINGS.model_copy(update={**long, "td_lambda": 1.0}))
    residual = [read_json(tmp_path / name / AUDIT_FILE)["residual"]["at_the_end"] for name in "pm"]
    assert residual[0] > 1.5 * residual[1]  # the reward was fitted at the other end
    metrics = read_parquet(tmp_path / "p" / METRICS_FILE, METRICS).to_pylist()
    assert [row["epoch"] for row in metrics if row["chosen"]] == [25]  # the last, whatever it is


def test_intervals_count_prompts_and_calibration_counts_everybody():
    rng = np.random.default_rng(0)
    values = rng.normal(size=200)
    rewards = values + rng.normal(size=200)
    few, many = rank(values, rewards, 20), rank(values, rewards, 200)
    assert few["estimate"] == many["estimate"]
    assert few["ci_high"] - few["ci_low"] > many["ci_high"] - many["ci_low"]
    assert rank(np.ones(9), np.arange(9.0), 9)["estimate"] is None
    assert rank(np.arange(3.0), np.arange(3.0), 3)["ci_low"] is None
    assert rank(np.arange(9.0), np.arange(9.0), 9)["estimate"] == pytest.approx(1)
    bins = calibration(np.arange(25.0), 2 * np.arange(25.0))
    assert len(bins) == 10
    assert all(one["actual"] == 2 * one["predicted"] for one in bins)


def test_the_chosen_epoch_is_the_one_that_is_saved(world, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 12, "lr": 0.1})  # so high that the last epoch is not the best
    facts = train(world, tmp_path / "v", tmp_path / "c", settings)
    assert facts["epoch"] < 12
    shorter = settings.model_copy(update={"epochs": facts["epoch"]})
    train(world, tmp_path / "s", tmp_path / "d", shorter)
    assert (tmp_path / "v" / WEIGHTS).read_bytes() == (tmp_path / "s" / WEIGHTS).read_bytes()


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
    for name in (WEIGHTS, METRICS_FILE, FACTS, AUDIT_FILE, CURVE_FILE):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_seed_decides(world, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(world, tmp_path / name, tmp_path / f"p{name}", SETTINGS.model_copy(update={"seed": seed, "epochs": 1}))
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c


def test_a_training_that_explodes_is_an_error_that_names_the_key(world, tmp_path):
    with pytest.raises(DataError, match="`lr`"):
        train(world, tmp_path / "v", tmp_path / "c", SETTINGS.model_copy(update={"lr": 1e20}))


def test_rewards_come_from_their_file_and_what_was_not_scored_is_counted(world, tmp_path):
    folder, rewards = world
    names = list(rewards)
    scores = [None if i == 0 else float("nan") if i == 1 else rewards[name] for i, name in enumerate(names)]
    write_parquet(tmp_path / "rewards.parquet", score_table(names, scores))
    labels = Labels.read(tmp_path / "rewards.parquet")
    assert (len(labels.keys), labels.not_scored) == (118, 2)
    facts = train((folder, labels), tmp_path / "v", tmp_path / "c", SETTINGS.model_copy(update={"epochs": 1}))
    assert facts["not_scored"] == 2
    assert facts["responses"] + facts["held_out_responses"] == 118
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken.parquet"):
        Labels.read(tmp_path / "broken.parquet")


def test_rank_correlations_are_null_where_there_is_nothing_to_rank(world, tmp_path):
    folder, rewards = world
    settings = SETTINGS.model_copy(update={"epochs": 1})
    facts = train((folder, dict.fromkeys(rewards, 1.0)), tmp_path / "v", tmp_path / "c", settings)
    (row,) = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert row["rank_last"] is None
    assert np.isfinite(row["held_out_loss"])
    assert facts["useful"] is False
    assert "the same for all" in facts["reason"]


def test_states_go_through_the_network_in_its_own_type():
    states, lengths, rewards = packed(batch(dtype=torch.float16), network().float())
    assert states.dtype == rewards.dtype == torch.float32
    assert lengths.tolist() == [3, 1, 4]
