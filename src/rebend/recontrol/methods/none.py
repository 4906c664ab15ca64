"""No control: the model as it is, the base of all comparisons."""

from __future__ import annotations

from rebend.config.controls import NoControlBlock
from rebend.generation.intervention import NoControl
from rebend.recontrol.resources import ControlResources


def make(block: NoControlBlock, resources: ControlResources) -> NoControl:
    """Return the control that changes nothing."""
    return NoControl()
