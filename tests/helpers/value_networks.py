"""Value networks and hidden states for the small policy."""

from __future__ import annotations

import torch

from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network

D = 32  # hidden size of the small policy


def network(n_layers: int = 3, scale: float = 1.0) -> ValueNetwork:
    """Return a frozen network whose initial weights are multiplied by `scale`."""
    net = new_network(Shape(D, 48, n_layers), seed=0).requires_grad_(False)
    for weight in net.parameters():
        weight.mul_(scale)
    return net


def states(rows: int = 5, seed: int = 1) -> torch.Tensor:
    """Return random states [rows, D]."""
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))
