"""A value network on disk: saved, loaded, and refused for another model or layer."""

from __future__ import annotations

import json

import pytest
import torch

from rebend.errors import DataError, ModelError
from rebend.recontrol.value_model.network import FACTS, WEIGHTS, Shape, load_value, new_network, save_value

D = 12


def test_a_loaded_network_equals_the_saved_one_and_is_frozen(tmp_path):
    for n_layers in (2, 3):
        net = new_network(Shape(D, 24, n_layers), 0)
        folder = tmp_path / str(n_layers)
        folder.mkdir()
        save_value(folder, net, {"fingerprint": "abc"})
        loaded = load_value(folder, "abc", D)
        states = torch.randn(4, D)
        assert torch.equal(loaded(states), net(states))
        assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_network_of_another_model_or_hidden_size_is_refused(tmp_path):
    save_value(tmp_path, new_network(Shape(D, 24, 2), 0), {"fingerprint": "abc"})
    with pytest.raises(ModelError, match=r"trained on model abc, this is def"):
        load_value(tmp_path, "def", D)
    with pytest.raises(ModelError, match=f"states of {D} numbers, the model's have 16"):
        load_value(tmp_path, "abc", 16)


def test_weights_of_another_shape_and_damaged_weights_are_refused(tmp_path):
    save_value(tmp_path, new_network(Shape(D, 24, 2), 0), {"fingerprint": "abc"})
    facts = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps({**facts, "shape": {**facts["shape"], "n_layers": 3}}))
    with pytest.raises(ModelError, match="does not have the shape"):
        load_value(tmp_path, "abc", D)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:50])
    with pytest.raises(DataError, match=WEIGHTS):
        load_value(tmp_path, "abc", D)


def test_a_network_of_another_layer_is_refused(tmp_path):
    save_value(tmp_path, new_network(Shape(D, 24, 2), 0), {"fingerprint": "abc", "layer": "3"})
    with pytest.raises(ModelError, match="reads layer 3, and control changes the final states"):
        load_value(tmp_path, "abc", D)
