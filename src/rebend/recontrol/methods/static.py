"""Static representation editing: the same direction is added to the final state at every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rebend.recontrol.methods.controls import Edit, NoControl


@dataclass(frozen=True)
class StaticShift(NoControl):
    """h <- h + α d with a direction d `[D]` of length 1: α is the distance moved at each token."""

    direction: torch.Tensor
    step_size: float

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Move every state alike."""
        shift = self.step_size * self.direction
        return lambda states, rows: states + shift.to(states)
