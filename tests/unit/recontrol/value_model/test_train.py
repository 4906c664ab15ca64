"""The training of a value network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_json, read_parquet
from rebend.recontrol.value_model.audit import AUDIT_FILE, CURVE, CURVE_FILE
from rebend.recontrol.value_model.network import FACTS, WEIGHTS
from rebend.recontrol.value_model.train import METRICS, METRICS_FILE, objective, slices
from tests.helpers.state_files import write_activations
from tests.helpers.value_model_parts import SETTINGS, batch, gradients, network, responses, train


def test_the_gradients_of_slices_add_up_to_the_batchs_gradient():
    net, rows = network(), batch(lengths=(3, 1, 4, 9, 2))
    whole = gradients(net, objective(net, rows, SETTINGS))
    parts = list(slices(rows, 5))
    assert [len(states) for part in parts for states, _, _ in part] == [3, 1, 4, 9, 2]
    assert [len(part) for part in parts] == [2, 1, 1, 1]
    added = sum(gradients(net, objective(net, part, SETTINGS) * len(part) / len(rows)) for part in parts)
    torch.testing.assert_close(added, whole, rtol=1e-12, atol=1e-14)


def test_a_network_learns_the_reward_and_its_audit_is_useful(labelled, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 25, "td_lambda": 0.9})
    facts = train(labelled, tmp_path / "v", tmp_path / "c", settings)
    metrics = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert len(metrics) == 25
    assert metrics[-1]["train_loss"] < 0.5 * metrics[0]["train_loss"]
    assert facts["rank_last"] > 0.9 > facts["rank_first"] > 0
    assert [row["epoch"] for row in metrics if row["chosen"]] == [facts["epoch"]]
    assert facts["epoch"] == min(metrics, key=lambda row: row["held_out_error"])["epoch"]
    assert facts["useful"] is True
    assert "12 prompts" in facts["reason"]
    audit = read_json(tmp_path / "v" / AUDIT_FILE)
    assert audit["rank"]["last"]["estimate"] > audit["rank"]["first"]["estimate"]
    assert (audit["prompts"], audit["responses"]) == (12, 24)
    bins = audit["calibration"]
    assert sum(line["n"] for line in bins) == 24
    assert bins[0]["predicted"] < bins[-1]["predicted"]
    assert bins[0]["actual"] < bins[-1]["actual"]
    assert 0 < audit["variation"]["share_along"] < 1
    curve = read_parquet(tmp_path / "v" / CURVE_FILE, CURVE).to_pylist()
    assert (curve[0]["place"], curve[-1]["place"]) == (0.0, 1.0)
    assert curve[-1]["rank"] == pytest.approx(facts["rank_last"])
    assert curve[0]["rank"] == pytest.approx(facts["rank_first"])
    assert curve[-1]["ci_low"] < curve[-1]["rank"] < curve[-1]["ci_high"]


def test_the_number_of_shards_changes_no_byte_of_the_network(tmp_path):
    states, rewards = responses(60)
    contents = []
    for shards in (1, 4):
        folder = write_activations(tmp_path / f"a{shards}", states, shards=shards, chunk=7)
        train((folder, rewards), tmp_path / f"v{shards}", tmp_path / f"c{shards}", SETTINGS)
        contents.append(
            [(tmp_path / f"v{shards}" / name).read_bytes() for name in (WEIGHTS, METRICS_FILE, FACTS, AUDIT_FILE)]
        )
    assert contents[0] == contents[1]


def test_the_saved_weights_are_those_of_the_chosen_epoch(labelled, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 12, "lr": 0.1})  # so high that the last epoch is not the best
    facts = train(labelled, tmp_path / "v", tmp_path / "c", settings)
    assert facts["epoch"] < 12
    shorter = settings.model_copy(update={"epochs": facts["epoch"]})
    train(labelled, tmp_path / "s", tmp_path / "d", shorter)
    assert (tmp_path / "v" / WEIGHTS).read_bytes() == (tmp_path / "s" / WEIGHTS).read_bytes()


def test_a_training_resumed_in_the_middle_of_an_epoch_writes_the_same_bytes(labelled, tmp_path, monkeypatch):
    train(labelled, tmp_path / "whole", tmp_path / "c")
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
        train(labelled, tmp_path / "first", tmp_path / "d")
    train(labelled, tmp_path / "second", tmp_path / "d")
    assert len(steps) < 17 + 6 * 7  # the first 17 steps are not taken again
    for name in (WEIGHTS, METRICS_FILE, FACTS, AUDIT_FILE, CURVE_FILE):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_weights_depend_on_the_seed_only(labelled, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(labelled, tmp_path / name, tmp_path / f"p{name}", SETTINGS.model_copy(update={"seed": seed, "epochs": 1}))
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c


def test_a_training_that_diverges_is_an_error_that_names_the_learning_rate(labelled, tmp_path):
    with pytest.raises(DataError, match="`lr`"):
        train(labelled, tmp_path / "v", tmp_path / "c", SETTINGS.model_copy(update={"lr": 1e20}))


def test_rank_correlations_are_null_if_all_rewards_are_equal(labelled, tmp_path):
    folder, rewards = labelled
    settings = SETTINGS.model_copy(update={"epochs": 1})
    facts = train((folder, dict.fromkeys(rewards, 1.0)), tmp_path / "v", tmp_path / "c", settings)
    (row,) = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert row["rank_last"] is None
    assert np.isfinite(row["held_out_loss"])
    assert facts["useful"] is False
    assert "the same for all" in facts["reason"]
