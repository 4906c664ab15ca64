"""RE-Control and an instruction together."""

from __future__ import annotations

from rebend.config.controls import ValuePromptingBlock
from rebend.recontrol.methods.prompting import Prompted
from rebend.recontrol.methods.value_ascent import make as make_control
from rebend.recontrol.resources import ControlResources


def make(block: ValuePromptingBlock, resources: ControlResources) -> Prompted:
    """Return the ascent with the block's instruction; the instruction alone if the step size is 0."""
    return Prompted(block.instruction, make_control(block, resources))
