"""Convert value networks of RE-Control's released code. No code in a released file is run.

The released code (arXiv:2406.05954) saves a state dict of `fc1`, `fc2`, `fc3` with `torch.save`, which writes a pickle;
its decoding code has no `fc2`. The converted folder has the same format as a network that this study trains.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rebend.config.value_models import ReleasedValueModelBlock
from rebend.errors import ModelError
from rebend.io.checksums import file_digest
from rebend.io.files import whole_directory
from rebend.models.layers import FINAL
from rebend.recontrol.value_model.network import Shape, ValueNetwork, save_value

_LAYERS = {2: {"fc1": "first", "fc3": "last"}, 3: {"fc1": "first", "fc2": "middle", "fc3": "last"}}


def take_value_model(
    source: str | Path, settings: ReleasedValueModelBlock, fingerprint: str, hidden_size: int, out: str | Path
) -> dict[str, Any]:
    """Write the network of a released file, in float32, to the folder `out`; return facts for the run record.

    `fingerprint` and `hidden_size` are those of the model that the network was trained on. Raises `ModelError` if the
    file holds anything but weights, or weights of other names or shapes than `settings` and `hidden_size` give.
    """
    source = Path(source)
    shape = Shape(hidden_size, settings.hidden_size, settings.n_layers)
    weights = _renamed(source, _read(source), shape)
    network = ValueNetwork(shape)
    network.load_state_dict(weights)
    facts = {"fingerprint": fingerprint, "layer": FINAL, "released": source.name, "sha256": file_digest(source)}
    with whole_directory(out) as folder:
        save_value(folder, network, {**facts, "settings": settings.model_dump()})
    return facts


def _read(source: Path) -> dict[str, Any]:
    """Return the tensors of a file by name."""
    try:
        if source.suffix == ".safetensors":
            return dict(load_file(source))
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{source}: holds more than weights, or is damaged; nothing in it was run") from error
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise ModelError(f"{source}: not a readable file of weights ({str(error).splitlines()[0]})") from error
    if not isinstance(weights, dict):
        raise ModelError(f"{source}: holds a {type(weights).__name__}; a dict of weights (a state dict) is expected")
    return weights


def _renamed(source: Path, weights: dict[str, Any], shape: Shape) -> dict[str, Tensor]:
    """Return the weights in float32 under the names of `ValueNetwork`, after a check of names, shapes and numbers."""
    shapes = {
        "fc1": (shape.hidden_size, shape.input_size),
        "fc2": (shape.hidden_size,) * 2,
        "fc3": (1, shape.hidden_size),
    }
    layers = _LAYERS[shape.n_layers]
    expected = {f"{old}.weight": shapes[old] for old in layers} | {f"{old}.bias": shapes[old][:1] for old in layers}
    if weights.keys() != expected.keys():
        names = ", ".join(sorted(map(str, weights))) or "nothing"
        raise ModelError(
            f"{source}: holds {names}; a network of {shape.n_layers} layers has {', '.join(sorted(expected))}. "
            "Is the key `n_layers` right?"
        )
    for name, size in expected.items():
        value = weights[name]
        if not isinstance(value, Tensor) or tuple(value.shape) != size:
            actual = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(
                f"{source}: {name} is {actual}, expected {list(size)} (the model's hidden size {shape.input_size}, "
                f"`hidden_size` {shape.hidden_size})"
            )
        if not torch.isfinite(value.float()).all():
            raise ModelError(f"{source}: {name} has numbers that are not finite")
    return {f"{layers[name.split('.')[0]]}.{name.split('.')[1]}": weights[name].float() for name in expected}
