"""The value network: predicts the reward at the end of a response from one hidden state.

RE-Control (arXiv:2406.05954, section 4 and Tables 8 and 9): a small ReLU network on the state after the final norm.
Decoding with control ascends its gradient with respect to the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rebend.errors import DataError, ModelError
from rebend.io.files import read_json, write_json
from rebend.models.layers import FINAL

WEIGHTS = "value.safetensors"
FACTS = "value.json"


@dataclass(frozen=True)
class Shape:
    """The shape of a value network, stored beside its weights."""

    input_size: int  # D, the model's hidden size
    hidden_size: int  # width of the hidden layers
    n_layers: int  # linear layers: 2 or 3


class ValueNetwork(nn.Module):
    """Linear, ReLU, (Linear, ReLU,) Linear: V(h) for states [..., D]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape.n_layers not in (2, 3):
            raise ModelError(f"a value network has 2 or 3 linear layers, not {shape.n_layers}")
        self.shape = shape
        self.first = nn.Linear(shape.input_size, shape.hidden_size)
        self.middle = nn.Linear(shape.hidden_size, shape.hidden_size) if shape.n_layers == 3 else None
        self.last = nn.Linear(shape.hidden_size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return V [...] of states [..., D]."""
        x = self.first(states).relu()
        if self.middle is not None:
            x = self.middle(x).relu()
        return self.last(x).squeeze(-1)


def where_active(gradient: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    """Return the gradient where `pre` is above 0, else 0: ReLU's backward pass in one operation, 0 at the kink."""
    return torch.ops.aten.threshold_backward(gradient, pre, 0)


def new_network(shape: Shape, seed: int) -> ValueNetwork:
    """Return a network with torch's default initial weights, which depend on `seed` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ValueNetwork(shape)


def save_value(directory: str | Path, network: ValueNetwork, facts: Mapping[str, Any]) -> None:
    """Write weights, shape and `facts`, which include the model's `fingerprint`, into a folder."""
    directory = Path(directory)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    write_json(directory / FACTS, {**facts, "shape": vars(network.shape)})


def load_value(
    directory: str | Path, fingerprint: str, hidden_size: int, device: torch.device | None = None
) -> ValueNetwork:
    """Return the network of a folder, frozen, in float32.

    Raises `ModelError` if it was trained on another model or layer, or if its weights do not have the stored shape, and
    `DataError` if the weights cannot be read.
    """
    directory = Path(directory)
    facts = read_json(directory / FACTS)
    shape = Shape(**facts["shape"])
    if shape.input_size != hidden_size:
        raise ModelError(
            f"{directory}: the value network reads states of {shape.input_size} numbers, the model's have {hidden_size}"
        )
    if facts["fingerprint"] != fingerprint:
        raise ModelError(
            f"{directory}: the value network was trained on model {facts['fingerprint']}, this is {fingerprint}; "
            "train one on activations of this model"
        )
    if (layer := facts.get("layer", FINAL)) != FINAL:
        raise ModelError(f"{directory}: the value network reads layer {layer}, and control changes the final states")
    network = ValueNetwork(shape)
    try:
        network.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{directory / WEIGHTS}: cannot be read ({error}); train the value network again") from error
    except RuntimeError as error:
        raise ModelError(f"{directory / WEIGHTS}: does not have the shape in {FACTS} ({error})") from error
    return network.to(device or torch.device("cpu")).requires_grad_(False).eval()
