"""The sections of the catalogue, with the classes of their blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebend.config.adapters import ADAPTERS
from rebend.config.base import Block, Method
from rebend.config.capability import CapabilityBlock
from rebend.config.controls import CONTROLS
from rebend.config.datasets import MADE_DATASETS, DatasetBlock
from rebend.config.judges import JUDGES
from rebend.config.models import EncoderBlock, ModelBlock
from rebend.config.rewards import RewardBlock
from rebend.config.safety import ATTACKS, SAFETY_JUDGES
from rebend.config.value_models import ActivationsBlock, DirectionBlock, ReleasedValueModelBlock, ValueModelBlock

# Section -> class of its blocks, or one class per method; of data sets, that of every reader of a source
CATALOGUE: dict[str, type[Block] | dict[str, Method]] = {
    "datasets": DatasetBlock,
    "models": ModelBlock,
    "rewards": RewardBlock,
    "encoders": EncoderBlock,
    "adapters": ADAPTERS,
    "activations": ActivationsBlock,
    "value_models": {
        "trained": Method(ValueModelBlock, "rebend.recontrol.value_model.train:train_value_model"),
        "released": Method(ReleasedValueModelBlock, "rebend.recontrol.value_model.released:take_value_model"),
    },
    "directions": DirectionBlock,
    "controls": CONTROLS,
    "judges": JUDGES,
    "attacks": ATTACKS,
    "safety_judges": SAFETY_JUDGES,
    "capabilities": CapabilityBlock,
}


def block_class(section: str, block: Mapping[str, Any]) -> type[Block] | dict[str, Method]:
    """Return the class of a block with these keys, or the classes of its section by method."""
    if section == "datasets" and (made := MADE_DATASETS.get(str(block.get("reader")))):
        return made
    return CATALOGUE[section]


def block_classes(section: str) -> list[type[Block]]:
    """Return the classes of the blocks of a section."""
    kind = CATALOGUE[section]
    classes = [method.block for method in kind.values()] if isinstance(kind, dict) else [kind]
    return [*classes, *MADE_DATASETS.values()] if section == "datasets" else classes
