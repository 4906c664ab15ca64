"""Gradient ascent step by step, each step rounded to the type of states and network, as in half precision."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from rebend.recontrol.value_model.network import ValueNetwork, where_active


@torch.inference_mode()
def stepwise_ascent(network: ValueNetwork, states: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return states [B, D] after `n_steps` of h <- h + α ∇V(h), in the type of `states` and `network`.

    The released code of RE-Control (arXiv:2406.05954) does so in float16; there rounding makes up to a percent of the
    move. `rebend.recontrol.methods.ascent` has the same steps in closed form, for float32.
    """
    for _ in range(n_steps):
        states = torch.add(states, gradient(network, states), alpha=step_size)
    return states


def gradient(network: ValueNetwork, states: torch.Tensor) -> torch.Tensor:
    """Return ∇V [B, D] at states [B, D]."""
    pre = linear(states, network.first.weight, network.first.bias)
    slope = network.last.weight.expand(len(states), -1)
    if network.middle is not None:
        above = linear(pre.relu(), network.middle.weight, network.middle.bias)
        slope = where_active(slope, above) @ network.middle.weight
    return where_active(slope, pre) @ network.first.weight
