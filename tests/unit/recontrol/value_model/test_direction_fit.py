"""A direction on hidden states: what it points to, whatever the order and number of shards."""

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
    """States of 1 to 5 tokens: the first coordinate follows the reward at every token, the second at the first only."""
    draw = torch.Generator().manual_seed(3)
    states, rewards = {}, {}
    for i in range(count):
        reward = float(torch.randn(1, generator=draw))
        found = 0.3 * torch.randn(1 + i % 5, D, generator=draw)
        found[:, 0] += 0.5 * reward
        found[0, 1] += 2.0 * reward
        states[f"row{i}/0"], rewards[f"row{i}/0"] = found.half().float(), reward
    return states, rewards


def fitted(folder: Path, settings: DirectionBlock, shards: int = 1) -> dict:
    states, rewards = responses()
    return fit_direction(Activations(write_activations(folder, states, shards)), Labels.of(rewards), settings)


def test_the_difference_is_that_of_means_over_responses(tmp_path):
    states, rewards = responses()
    order = sorted(rewards, key=rewards.get)
    low, high = (
        torch.stack([states[key].double().mean(0) for key in half]).mean(0) for half in (order[:30], order[30:])
    )
    found = fitted(tmp_path / "a", DIFFERENCE)
    wanted = (high - low) / (high - low).norm()
    assert found["direction"] == pytest.approx(wanted.tolist(), abs=1e-9)
    assert found["length"] == pytest.approx(float((high - low).norm()))
    assert np.linalg.norm(found["direction"]) == pytest.approx(1.0)


def test_a_share_compares_the_ends_alone(tmp_path):
    states, rewards = responses()
    order = sorted(rewards, key=rewards.get)
    means = {key: states[key].double().mean(0) for key in order}
    wanted = torch.stack([means[k] for k in order[-6:]]).mean(0) - torch.stack([means[k] for k in order[:6]]).mean(0)
    found = fitted(tmp_path / "a", DIFFERENCE.model_copy(update={"share": 0.1}))
    assert found["direction"] == pytest.approx((wanted / wanted.norm()).tolist(), abs=1e-9)


def test_the_regression_is_least_squares_on_the_state_after_the_prompt(tmp_path):
    states, rewards = responses()
    first = np.stack([found[0].double().numpy() for found in states.values()])
    plain = np.linalg.lstsq(np.c_[first, np.ones(len(first))], np.array(list(rewards.values())), rcond=None)[0][:-1]
    found = np.array(fitted(tmp_path / "a", REGRESSION)["direction"])
    assert found @ plain / np.linalg.norm(plain) > 0.999  # but for a little ridge
    assert found[1] > 0.9  # the coordinate that only the first token has


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
    found = fit_direction(source, labels, DIFFERENCE)
    assert (found["responses"], found["not_scored"]) == (50, 10)
    fewer = {key: states[key] for key in known}
    alone = fit_direction(Activations(write_activations(tmp_path / "b", fewer)), Labels.of(known), DIFFERENCE)
    assert found["direction"] == pytest.approx(alone["direction"])


def test_what_gives_no_direction_is_refused(tmp_path):
    states, rewards = responses()
    source = Activations(write_activations(tmp_path / "a", states))
    with pytest.raises(DataError, match="1 responses have a reward"):
        fit_direction(source, Labels.of({"row0/0": 1.0}), DIFFERENCE)
    strangers = {f"other{i}": float(i) for i in range(9)}
    for settings in (DIFFERENCE, REGRESSION):
        with pytest.raises(DataError, match="belong to other responses"):
            fit_direction(source, Labels.of(strangers), settings)
    alike = Activations(write_activations(tmp_path / "b", {key: torch.ones(2, D) for key in states}))
    for settings in (DIFFERENCE, REGRESSION):
        with pytest.raises(DataError, match="no direction"):
            fit_direction(alike, Labels.of(rewards), settings)


def test_states_of_another_layer_are_refused(tmp_path):
    states, rewards = responses()
    folder = write_activations(tmp_path / "a", states)
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "layer": "2"})
    with pytest.raises(DataError, match="layer 2"):
        fit_direction(Activations(folder), Labels.of(rewards), DIFFERENCE)
