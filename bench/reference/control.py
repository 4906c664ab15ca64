"""A plain version of RE-Control's released ascent, for comparison in the benchmark and the tests.

Written from a description of that code, without copying it. The states of a forward pass become a parameter, and an
SGD optimiser with learning rate α takes n steps on minus the sum of their values. The network's own weights require
gradients too, as in the released code: each step computes them and adds them up, and nothing uses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def released_ascent(network: nn.Module, states: Tensor, step_size: float, n_steps: int) -> Tensor:
    """Return the states [..., D] after n steps at every position."""
    with torch.inference_mode(False), torch.enable_grad():
        x = nn.Parameter(states.detach().clone())
        optimiser = torch.optim.SGD([x], lr=step_size)
        for _ in range(n_steps):
            optimiser.zero_grad()
            (-network(x).sum()).backward()
            optimiser.step()
    return x.detach()


@contextmanager
def controlled(model: Any, network: nn.Module, step_size: float, n_steps: int, *, whole: bool) -> Iterator[None]:
    """Inside the block, replace the model's final-norm states before the head by `released_ascent` of them.

    With `whole`, as in the released code, at all positions of a forward pass, the padded prompt included; otherwise at
    the newest position only.
    """

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        states = output.last_hidden_state.float()
        if whole:
            states = released_ascent(network, states, step_size, n_steps)
        else:
            states = torch.cat([states[:, :-1], released_ascent(network, states[:, -1:], step_size, n_steps)], dim=1)
        output.last_hidden_state = states.to(output.last_hidden_state.dtype)
        return output

    handle = model.get_decoder().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
