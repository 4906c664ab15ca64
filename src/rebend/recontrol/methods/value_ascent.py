"""RE-Control (arXiv:2406.05954, section 4): at each token, gradient ascent on the value network before sampling.

n steps h <- h + α ∇V(h) on the state h between the final norm and the LM head. The KV cache is not changed.

The variant `corrected` has float32 and bounds a move by ten lengths of the state. `released_code` has no bound, and
state and network in the model's type: in half precision it takes the steps one by one, each rounded, as the released
code. Only a state that is no longer finite returns to its place, and is counted, in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Literal

import torch

from rebend.config.controls import AscentBlock
from rebend.generation.intervention import Control, Edit, NoControl
from rebend.recontrol.methods.ascent import AscentCache, ascend
from rebend.recontrol.methods.stepwise_ascent import stepwise_ascent
from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.network import ValueNetwork
from rebend.recontrol.value_network import value_network


def make(block: AscentBlock, resources: ControlResources) -> Control:
    """Return the ascent with the block's step size α and number of steps; no control if α is 0."""
    return ascent(ValueAscent, block, resources)


def ascent(kind: type[ValueAscent], block: AscentBlock, resources: ControlResources) -> Control:
    """Return a control of class `kind` with the block's settings; no control if α is 0.

    Raises `ConfigError` if there is no value network.
    """
    if not float(block.step_size):
        return NoControl()
    network = value_network(block.method, resources)
    if block.variant == "released_code" and resources.policy.model.dtype != torch.float32:
        network = deepcopy(network).to(resources.policy.model.dtype)
    return kind(network, float(block.step_size), int(block.n_steps), block.variant)


@dataclass(frozen=True)
class ValueAscent(NoControl):
    """n steps h <- h + α ∇V(h). The value network must be on the model's device; its type is that of the steps."""

    network: ValueNetwork
    step_size: float
    n_steps: int
    variant: Literal["released_code", "corrected"] = "corrected"

    @cached_property
    def cache(self) -> AscentCache:
        """Products of the network's weights that all tokens share."""
        return AscentCache(self.network)

    @property
    def whole_prompt(self) -> bool:
        """Return whether all positions of the prompt ascend, as in the released code.

        It takes more time and changes no token.
        """
        return self.variant == "released_code"

    @property
    def norm_limit(self) -> float:
        """Return the longest move in lengths of the state: none as in the released code, or the common one."""
        return inf if self.variant == "released_code" else super().norm_limit

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Return the ascent from each state."""
        return lambda states, rows: self.ascend(states)

    def ascend(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states [A, D] after the ascent, in their own type."""
        dtype = self.network.first.weight.dtype
        if dtype in (torch.float16, torch.bfloat16):
            return stepwise_ascent(self.network, states.to(dtype), self.step_size, self.n_steps).to(states.dtype)
        return ascend(self.network, states, self.step_size, self.n_steps, self.cache)
