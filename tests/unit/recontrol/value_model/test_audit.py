"""The audit of a value network on held-out responses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rebend.io.files import read_json, read_parquet
from rebend.recontrol.value_model import examples
from rebend.recontrol.value_model.activation_store import key_of
from rebend.recontrol.value_model.audit import AUDIT_FILE, calibration, rank
from rebend.recontrol.value_model.examples import AUDITED, HELD_OUT
from rebend.recontrol.value_model.network import FACTS
from rebend.recontrol.value_model.train import METRICS, METRICS_FILE
from tests.helpers.state_files import write_activations
from tests.helpers.value_model_parts import RELEASED, SETTINGS, D, data_of, train


def test_the_audit_reads_whole_prompts_with_the_lowest_digests(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "MAX_AUDITED", 9)
    data = data_of(labelled)
    assert (data.count(HELD_OUT), data.count(AUDITED), data.audited_prompts) == (24, 8, 4)
    by_digest = sorted(range(60), key=lambda i: key_of(f"0/row{i}"))[:12]
    audited = np.flatnonzero(data.sides.reshape(-1, 2)[:, 1] & AUDITED)
    assert sorted(audited) == sorted(by_digest[:4]) != sorted(by_digest)[:4]  # not the first prompts of the file
    facts = train(labelled, tmp_path / "value", tmp_path / "state")
    assert facts["held_out_responses"] == 24
    audit = json.loads((tmp_path / "value" / AUDIT_FILE).read_text())
    assert (audit["responses"], audit["prompts"]) == (8, 4)
    monkeypatch.setattr(examples, "MAX_AUDITED", 1)
    assert data_of(labelled).audited_prompts == 1


def test_a_network_trained_on_shuffled_rewards_is_useless_in_the_record_and_the_log(labelled, tmp_path, capsys):
    folder, rewards = labelled
    order = np.random.default_rng(1).permutation(120)
    shuffled = dict(zip(rewards, np.array(list(rewards.values()))[order], strict=True))
    facts = train((folder, shuffled), tmp_path / "v", tmp_path / "c")
    assert facts["useful"] is False
    assert "not above 0" in facts["reason"]
    assert "WARNING: the value network is useless" in capsys.readouterr().err
    assert read_json(tmp_path / "v" / FACTS)["useful"] is False
    assert read_json(tmp_path / "v" / AUDIT_FILE)["reason"] == facts["reason"]


def test_the_released_objective_fits_the_reward_worse_at_the_last_token(labelled, tmp_path):
    long = {"epochs": 25}
    train(labelled, tmp_path / "p", tmp_path / "c", RELEASED.model_copy(update=long))
    train(labelled, tmp_path / "m", tmp_path / "d", SETTINGS.model_copy(update={**long, "td_lambda": 1.0}))
    residual = [read_json(tmp_path / name / AUDIT_FILE)["residual"]["at_the_end"] for name in "pm"]
    assert residual[0] > 1.5 * residual[1]  # the released objective fits the reward at the first token
    metrics = read_parquet(tmp_path / "p" / METRICS_FILE, METRICS).to_pylist()
    assert [row["epoch"] for row in metrics if row["chosen"]] == [25]  # the last epoch


def test_intervals_count_prompts_and_calibration_counts_responses():
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
    assert all(line["actual"] == 2 * line["predicted"] for line in bins)


def planted(folder) -> tuple:
    """Return 300 responses whose end token's state has the reward in another place than the states of their tokens."""
    rng = torch.Generator().manual_seed(0)
    states, rewards = {}, {}
    for i in range(300):
        name, reward, n = f"row{i}/0", float(torch.randn((), generator=rng)), 1 + i % 4
        response = 0.3 * torch.randn(n + 1, D, generator=rng)
        response[:n, 0] += reward
        response[n, 1] += reward
        states[name], rewards[name] = response, reward
    return write_activations(folder, states, ended=list(states)), rewards


def test_the_value_at_the_end_tokens_state_ranks_with_the_reward_if_it_is_trained_on(tmp_path, capsys):
    labelled, settings = planted(tmp_path / "a"), SETTINGS.model_copy(update={"epochs": 25})
    ranks = {}
    for end_state in ("kept", "left_out"):
        changed = settings.model_copy(update={"end_state": end_state})
        facts = train(labelled, tmp_path / end_state, tmp_path / f"c{end_state}", changed)
        found = read_json(tmp_path / end_state / AUDIT_FILE)
        assert facts["end_state"] == found["end_state"]
        assert (found["responses"], found["end_state"]["responses"]) == (60, 60)
        ranks[end_state] = found["rank"]["last"]["estimate"], found["end_state"]["rank"]["estimate"]
        warned = "at the state that the end token is sampled from" in capsys.readouterr().err
        assert warned == (end_state == "left_out")
    assert ranks["kept"][0] > 0.8 and ranks["kept"][1] > 0.8
    assert ranks["left_out"][0] > 0.8 and abs(ranks["left_out"][1]) < 0.4


def test_without_held_out_prompts_the_audit_says_that_it_is_of_training(labelled, tmp_path):
    settings = RELEASED.model_copy(update={"validation_share": 0.0, "dtype": "bfloat16"})
    facts = train(labelled, tmp_path / "v", tmp_path / "c", settings)
    assert (facts["responses"], facts["held_out_responses"], facts["epoch"]) == (120, 0, 6)
    assert "training responses to 60 prompts" in facts["reason"]
    found = read_json(tmp_path / "v" / AUDIT_FILE)
    assert (found["held_out"], found["prompts"], found["responses"]) == (False, 60, 120)
    metrics = read_parquet(tmp_path / "v" / METRICS_FILE, METRICS).to_pylist()
    assert {row["held_out_loss"] for row in metrics} == {row["rank_last"] for row in metrics} == {None}
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
