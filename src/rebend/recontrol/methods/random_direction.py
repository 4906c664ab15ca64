"""A random direction: each token's edit is as long as RE-Control's from the same state, in a random direction.

The comparison separates the value network's contribution from the effect of any edit of that length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rebend.config.controls import RandomControlBlock
from rebend.generation.intervention import Control, Edit
from rebend.generation.norm_limit import clip_edit
from rebend.recontrol.methods.value_ascent import ValueAscent, ascent
from rebend.recontrol.resources import ControlResources


def make(block: RandomControlBlock, resources: ControlResources) -> Control:
    """Return the control with the ascent's step size α and number of steps; no control if α is 0."""
    return ascent(RandomDirection, block, resources)


@dataclass(frozen=True)
class RandomDirection(ValueAscent):
    """An edit with the norm of the ascent's edit and a new random direction at each token."""

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Return the edit. Each row has its own generator, so that its directions do not depend on other rows."""
        generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]

        def edit(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            _, norm, _ = clip_edit(states, self.ascend(states), self.norm_limit)
            normal = [torch.randn(states.shape[1], generator=generators[row]) for row in rows.tolist()]
            direction = torch.stack(normal).to(states.device)
            return states + direction * (norm / direction.norm(dim=1)).unsqueeze(1)

        return edit
