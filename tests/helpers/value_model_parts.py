"""Responses with rewards, and the training of a value network on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rebend.config.value_models import ValueModelBlock
from rebend.io.checkpoints import Checkpoints
from rebend.recontrol.value_model.activation_store import Activations
from rebend.recontrol.value_model.examples import ValueData
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.loss import Labelled
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network
from rebend.recontrol.value_model.train import train_value_model

D = 12
SETTINGS = ValueModelBlock(
    activations="a", reward="r", n_layers=3, hidden_size=24, lr=5.0e-3, batch_size=16, epochs=6, validation_share=0.2
)
RELEASED = SETTINGS.model_copy(update={"variant": "released_code", "end_state": "left_out"})

LabelledFolder = tuple[Path, dict[str, float] | Labels]  # an activations folder, and rewards of its responses


def responses(count: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return states and rewards, two responses per prompt. Every state contains the reward, with noise that falls."""
    rng = torch.Generator().manual_seed(0)
    states, rewards = {}, {}
    for i in range(count):
        reward = float(torch.randn((), generator=rng))
        n = 3 + i % 5
        response = torch.randn(n, D, generator=rng) * torch.linspace(2.0, 0.1, n)[:, None]
        response[:, 0] += reward
        states[f"row{i // 2}/{i % 2}"], rewards[f"row{i // 2}/{i % 2}"] = response, reward
    return states, rewards


def train(
    labelled: LabelledFolder, output: Path, checkpoints: Path, settings: ValueModelBlock = SETTINGS
) -> dict[str, Any]:
    """Train a value network into the folder `output`; return its facts."""
    folder, rewards = labelled
    output.mkdir(parents=True)
    labels = rewards if isinstance(rewards, Labels) else Labels.of(rewards)
    cpu = torch.device("cpu")
    return train_value_model(Activations(folder), labels, settings, output, Checkpoints(checkpoints), cpu)


def data_of(labelled: LabelledFolder, share: float = 0.2, seed: int = 0) -> ValueData:
    """Return the responses, split by prompt."""
    folder, rewards = labelled
    return ValueData(Activations(folder), Labels.of(rewards), share, seed)


def batch(lengths: tuple[int, ...] = (3, 1, 4), dtype: torch.dtype = torch.float64) -> list[Labelled]:
    """Return random responses of these lengths, with the rewards 1, 2, …"""
    rng = torch.Generator().manual_seed(0)
    return [Labelled(torch.randn(n, D, generator=rng, dtype=dtype), float(i + 1)) for i, n in enumerate(lengths)]


def network(n_layers: int = 2) -> ValueNetwork:
    """Return a new network in double precision."""
    return new_network(Shape(D, 24, n_layers), 0).double()


def gradients(net: ValueNetwork, loss: torch.Tensor) -> torch.Tensor:
    """Return the gradient of `loss` with respect to all weights, flattened."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])
