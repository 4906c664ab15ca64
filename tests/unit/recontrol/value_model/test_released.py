"""Value networks of RE-Control's released code are converted, and no code in their file is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rebend.config.value_models import ReleasedValueModelBlock
from rebend.errors import ModelError
from rebend.recontrol.value_model.network import load_value
from rebend.recontrol.value_model.released import take_value_model

D, H = 6, 5


class Released(nn.Module):
    """The network of the released code."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(D, H)
        if layers == 3:
            self.fc2 = nn.Linear(H, H)
        self.fc3 = nn.Linear(H, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x).relu()
        if hasattr(self, "fc2"):
            x = self.fc2(x).relu()
        return self.fc3(x)


class Malicious:
    """Creates a file when its pickle is loaded with `weights_only=False`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def block(**changes: Any) -> ReleasedValueModelBlock:
    return ReleasedValueModelBlock(**{"method": "released", "local": "x.pth", "hidden_size": H, **changes})


def take(source: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return take_value_model(source, block(**changes), "abc", D, out)


@pytest.mark.parametrize("layers", [2, 3])
def test_a_converted_network_has_the_same_output(tmp_path: Path, layers: int) -> None:
    network = Released(layers).to(torch.bfloat16)  # the type of the released weights
    torch.save(network.state_dict(), tmp_path / "value_model_llama3_8B_shp_0.0001.pth")
    save_file(network.state_dict(), tmp_path / "converted.safetensors")
    states = torch.randn(7, D)
    for source in ("value_model_llama3_8B_shp_0.0001.pth", "converted.safetensors"):
        facts = take(tmp_path / source, tmp_path / "out", n_layers=layers)
        assert facts["released"] == source and len(facts["sha256"]) == 64
        taken = load_value(tmp_path / "out", "abc", D)
        assert torch.equal(taken(states), network.float()(states).squeeze(-1))
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"value.safetensors", "value.json"}  # the pickle is not copied


def test_other_names_shapes_and_numbers_are_errors_that_name_the_expected_ones(tmp_path: Path) -> None:
    source = tmp_path / "x.pth"
    torch.save(Released(3).state_dict(), source)
    with pytest.raises(ModelError, match=r"holds fc1.bias, .*fc2.*; a network of 2 layers has .*`n_layers` right"):
        take(source, tmp_path / "out", n_layers=2)
    with pytest.raises(ModelError, match=r"fc1.weight is \[5, 6\], expected \[4, 6\] .*`hidden_size` 4"):
        take(source, tmp_path / "out", hidden_size=4)
    with pytest.raises(ModelError, match=r"fc1.weight is \[5, 6\], expected \[5, 8\] \(the model's hidden size 8"):
        take_value_model(source, block(), "abc", 8, tmp_path / "out")
    torch.save({**Released(3).state_dict(), "fc3.bias": torch.tensor([float("nan")])}, source)
    with pytest.raises(ModelError, match=r"fc3\.bias has numbers that are not finite"):
        take(source, tmp_path / "out")
    torch.save([1, 2], source)
    with pytest.raises(ModelError, match="holds a list; a dict of weights"):
        take(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    source, created = tmp_path / "x.pth", tmp_path / "created by the pickle"
    torch.save({**Released(3).state_dict(), "more": Malicious(created)}, source)
    torch.load(source, weights_only=False)
    assert created.exists()  # loading with pickle runs its code
    created.unlink()
    with pytest.raises(ModelError, match=r"x.pth: holds more than weights, or is damaged; nothing in it was run"):
        take(source, tmp_path / "out")
    assert not created.exists() and not (tmp_path / "out").exists()


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(Released(3).state_dict(), whole)
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(whole.read_bytes()[:200])
        with pytest.raises(ModelError, match=name):
            take(tmp_path / name, tmp_path / "out")
    with pytest.raises(ModelError, match=r"nowhere\.pth"):
        take(tmp_path / "nowhere.pth", tmp_path / "out")
