"""RE-Control (arXiv:2406.05954, section 4): at each token, gradient ascent on the value network before sampling.

n steps h <- h + α ∇V(h) on the state h between the final norm and the LM head. The KV cache is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from rebend.config.controls import AscentBlock
from rebend.generation.intervention import Control, Edit, NoControl
from rebend.recontrol.methods.ascent import AscentCache, ascend
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
    return kind(value_network(block.method, resources), float(block.step_size), int(block.n_steps), block.variant)


@dataclass(frozen=True)
class ValueAscent(NoControl):
    """n steps h <- h + α ∇V(h). The value network must be on the model's device."""

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

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Return the ascent from each state."""
        return lambda states, rows: self.ascend(states)

    def ascend(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states [A, D] after the ascent."""
        return ascend(self.network, states, self.step_size, self.n_steps, self.cache)
