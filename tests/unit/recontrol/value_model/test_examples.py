"""Responses are split by prompt, and streamed once per epoch with their rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rebend.errors import DataError
from rebend.recontrol.value_model.activation_store import Activations, key_of
from rebend.recontrol.value_model.examples import HELD_OUT, TRAIN, ValueData
from rebend.recontrol.value_model.labels import Labels
from tests.helpers.value_model_parts import data_of


def test_all_responses_to_a_prompt_are_on_the_same_side(labelled):
    data = data_of(labelled)
    assert (data.count(TRAIN), data.count(HELD_OUT), data.audited_prompts) == (96, 24, 12)
    pairs = data.sides.reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    expected = sorted(range(60), key=lambda i: key_of(f"0/row{i}"))[:12]
    assert sorted(np.flatnonzero(pairs[:, 0] & HELD_OUT)) == sorted(expected)
    assert (data_of(labelled, seed=1).sides != data.sides).any()


def test_responses_without_a_reward_are_left_out_and_fewer_than_two_prompts_are_refused(labelled):
    folder, rewards = labelled
    known = {name: rewards[name] for name in list(rewards)[:40]}
    data = ValueData(Activations(folder), Labels.of(known), 0.2, 0)
    assert data.count(TRAIN) + data.count(HELD_OUT) == 40
    yielded = [reward for side in (TRAIN, HELD_OUT) for part in data.batches(side, 7) for _, reward, _ in part]
    assert sorted(yielded) == sorted(known.values())
    with pytest.raises(DataError, match="at least 2"):
        ValueData(Activations(folder), Labels.of({"row0/0": 1.0}), 0.2, 0)
    with pytest.raises(DataError, match="responses to 0 prompts"):
        ValueData(Activations(folder), Labels.of({}), 0.2, 0)


def test_each_epoch_yields_every_response_once_in_a_different_order(labelled):
    data = data_of(labelled)
    plain = [reward for part in data.batches(TRAIN, 16) for _, reward, _ in part]
    passes = []
    for epoch in (0, 1):
        parts = list(data.batches(TRAIN, 16, np.random.default_rng([0, epoch])))
        assert [len(part) for part in parts] == [16] * 6
        passes.append([reward for part in parts for _, reward, _ in part])
        assert sorted(passes[-1]) == sorted(plain)
    assert plain != passes[0] != passes[1]
    again = [r for part in data.batches(TRAIN, 16, np.random.default_rng([0, 0])) for _, r, _ in part]
    assert again == passes[0]


def test_each_response_has_its_own_reward(labelled):
    folder, rewards = labelled
    states = {}
    activations = Activations(folder)
    for group in activations.groups():
        states |= {name: response.clone() for name, response in activations.read(group).responses()}
    by_reward = {reward: states[name] for name, reward in rewards.items()}
    for part in data_of(labelled).batches(TRAIN, 16, np.random.default_rng(0)):
        assert all(torch.equal(response, by_reward[reward]) for response, reward, _ in part)


def test_a_few_responses_of_a_row_group_do_not_keep_the_group_in_memory(labelled):
    for part in data_of(labelled).batches(HELD_OUT, 5):
        assert all(states.untyped_storage().nbytes() <= 2 * states.nbytes for states, _, _ in part)
