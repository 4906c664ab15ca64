"""Static representation editing: the same vector is added to the final state at every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rebend.config.controls import StaticControlBlock
from rebend.generation.intervention import Control, Edit, NoControl
from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.direction import load_direction


def make(block: StaticControlBlock, resources: ControlResources) -> Control:
    """Return the shift along the block's direction; no control if the step size is 0."""
    if not float(block.step_size):
        return NoControl()
    policy = resources.policy

    def load(path: str) -> torch.Tensor:
        return load_direction(path, policy.fingerprint, policy.hidden_size)

    return StaticShift(resources.get("direction", block.method, load), float(block.step_size))


@dataclass(frozen=True)
class StaticShift(NoControl):
    """h <- h + α d, with a direction d [D] of norm 1; α is the norm of the edit."""

    direction: torch.Tensor
    step_size: float

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Return the shift."""
        shift = self.step_size * self.direction
        return lambda states, rows: states + shift.to(states)
