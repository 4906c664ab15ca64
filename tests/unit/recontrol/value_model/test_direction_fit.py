"""A fitted direction: equal to a computation by hand, for any number of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rebend.config.value_models import DirectionBlock
from rebend.errors import DataError
from rebend.io.files import read_json, write_json
from rebend.recontrol.value_model.activation_store import Activations
from rebend.recontrol.value_model.direction_fit import fit_direction
from rebend.recontrol.value_model.labels import Labels
from tests.helpers.state_files import write_activations

D = 6
DIFFERENCE = DirectionBlock(activations="a", reward="r")
REGRESSION = DirectionBlock(activations="a", reward="r", fit="regression")


def responses(count: int = 60) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return states of 1 to 5 tokens, and rewards. Coordinate 0 contains the reward at every token, 1 at the first."""
    draw = torch.Generator().manual_seed(3)
    states, rewards = {}, {}
    for i in range(count):
        reward = float(torch.randn(1, generator=draw))
        response = 0.3 * torch.randn(1 + i % 5, D, generator=draw)
        response[:, 0] += 0.5 * reward
        response[0, 1] += 2.0 * reward
        states[f"row{i}/0"], rewards[f"row{i}/0"] = response.half().float(), reward
    return states, rewards


def fitted(folder: Path, settings: DirectionBlock, shards: int = 1) -> dict:
    states, rewards = responses()
    return fit_direction(Activations(write_activations(folder, states, shards)), Labels.of(rewards), settings)


def test_the_difference_is_between_means_over_responses(tmp_path):
    states, rewards = responses()
    order = sorted(rewards, key=rewards.get)
    low, high = (
        torch.stack([states[key].double().mean(0) for key in half]).mean(0) for half in (order[:30], order[30:])
    )
    fit = fitted(tmp_path / "a", DIFFERENCE)
    expected = (high - low) / (high - low).norm()
    assert fit["direction"] == pytest.approx(expected.tolist(), abs=1e-9)
    assert fit["length"] == pytest.approx(float((high - low).norm()))
    assert np.linalg.norm(fit["direction"]) == pytest.approx(1.0)


def test_a_share_compares_only_the_lowest_and_the_highest_rewards(tmp_path):
    states, rewards = responses()
    order = sorted(rewards, key=rewards.get)
    means = {key: states[key].double().mean(0) for key in order}
    expected = torch.stack([means[k] for k in order[-6:]]).mean(0) - torch.stack([means[k] for k in order[:6]]).mean(0)
    fit = fitted(tmp_path / "a", DIFFERENCE.model_copy(update={"share": 0.1}))
    assert fit["direction"] == pytest.approx((expected / expected.norm()).tolist(), abs=1e-9)


def test_the_regression_is_least_squares_on_the_state_after_the_prompt(tmp_path):
    states, rewards = responses()
    first = np.stack([response[0].double().numpy() for response in states.values()])
    plain = np.linalg.lstsq(np.c_[first, np.ones(len(first))], np.array(list(rewards.values())), rcond=None)[0][:-1]
    direction = np.array(fitted(tmp_path / "a", REGRESSION)["direction"])
    assert direction @ plain / np.linalg.norm(plain) > 0.999  # they differ by the ridge
    assert direction[1] > 0.9  # the coordinate with the reward at the first token only


@pytest.mark.parametrize("settings", [DIFFERENCE, REGRESSION], ids=["difference", "regression"])
def test_the_number_of_shards_changes_nothing(tmp_path, settings):
    one, three = (fitted(tmp_path / str(shards), settings, shards) for shards in (1, 3))
    assert one["direction"] == pytest.approx(three["direction"], abs=1e-12)


def test_responses_without_a_reward_are_left_out_and_counted(tmp_path):
    states, rewards = responses()
    known = dict(list(rewards.items())[:-10])
    source = Activations(write_activations(tmp_path / "a", states))
    labels = Labels.of(known)
    labels.not_scored = 10
    fit = fit_direction(source, labels, DIFFERENCE)
    assert (fit["responses"], fit["not_scored"]) == (50, 10)
    fewer = {key: states[key] for key in known}
    alone = fit_direction(Activations(write_activations(tmp_path / "b", fewer)), Labels.of(known), DIFFERENCE)
    assert fit["direction"] == pytest.approx(alone["direction"])


def test_too_few_rewards_other_rewards_and_equal_states_are_refused(tmp_path):
    states, rewards = responses()
    source = Activations(write_activations(tmp_path / "a", states))
    with pytest.raises(DataError, match="1 responses have a reward"):
        fit_direction(source, Labels.of({"row0/0": 1.0}), DIFFERENCE)
    other_rewards = {f"other{i}": float(i) for i in range(9)}
    for settings in (DIFFERENCE, REGRESSION):
        with pytest.raises(DataError, match="belong to other responses"):
            fit_direction(source, Labels.of(other_rewards), settings)
    equal = Activations(write_activations(tmp_path / "b", {key: torch.ones(2, D) for key in states}))
    for settings in (DIFFERENCE, REGRESSION):
        with pytest.raises(DataError, match="no direction"):
            fit_direction(equal, Labels.of(rewards), settings)


def test_states_of_another_layer_are_refused(tmp_path):
    states, rewards = responses()
    folder = write_activations(tmp_path / "a", states)
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "layer": "2"})
    with pytest.raises(DataError, match="layer 2"):
        fit_direction(Activations(folder), Labels.of(rewards), DIFFERENCE)
