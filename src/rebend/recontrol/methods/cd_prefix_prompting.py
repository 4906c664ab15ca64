"""CD prefix and an instruction together."""

from __future__ import annotations

from rebend.config.controls import CdPrefixPromptingBlock
from rebend.recontrol.methods.cd_prefix import make as make_control
from rebend.recontrol.methods.prompting import Prompted
from rebend.recontrol.resources import ControlResources


def make(block: CdPrefixPromptingBlock, resources: ControlResources) -> Prompted:
    """Return the search with the block's instruction; the instruction alone if the weight is 0."""
    return Prompted(block.instruction, make_control(block, resources))
