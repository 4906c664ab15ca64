"""What a control needs of the graph: files made beforehand, and the settings of the stages that decode under it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rebend.config.base import settings
from rebend.config.controls import TunedBlock
from rebend.config.load import Config
from rebend.config.rewards import asking
from rebend.pipeline.graph import paths


class ControlInputs:
    """The controls of a configuration, in the words of the rules."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def value_model_input(self, model: str, control: str) -> str | list[str]:
        """The value network that a control climbs, if it does."""
        name = getattr(self.config["controls"][control], "value_model", None)
        return paths.value_model(model, name) if name else []

    def direction_input(self, model: str, control: str) -> str | list[str]:
        """The direction that a control adds, if it does."""
        name = getattr(self.config["controls"][control], "direction", None)
        return paths.direction(model, name) if name else []

    def guide(self, control: str) -> str | None:
        """The reward block that a control itself asks while decoding, if it does."""
        return getattr(self.config["controls"][control], "reward", None)

    def guide_input(self, control: str) -> str | list[str]:
        """The folder of that reward model."""
        name = self.guide(control)
        return paths.reward_model(name) if name else []

    def asking(self, control: str) -> str:
        """How the addresses are asked that a control needs, while decoding or to choose its strength."""
        choice = getattr(self.config["controls"][control], "choice", None)
        names = [name for name in (self.guide(control), choice and choice.reward) if name]
        return asking([self.config["rewards"][name] for name in names])

    def control_settings(self, model: str, control: str, without: Iterable[str] = ()) -> dict[str, Any]:
        """Settings of a stage that decodes under a control: the control, its reward model, the model's type."""
        guide = self.guide(control)
        return {
            "control": settings(self.config["controls"][control], without),
            "guide": settings(self.config["rewards"][guide]) if guide else None,
            "dtype": self.dtype(model),
        }

    def chooses(self, control: str) -> bool:
        """Whether a control chooses its strength itself."""
        return getattr(self.config["controls"][control], "choice", None) is not None

    def strength_input(self, model: str, control: str) -> str | list[str]:
        """The file with the strength chosen for a control, if one is chosen."""
        block = self.config["controls"][control]
        is_chosen = isinstance(block, TunedBlock) and block.is_chosen
        return paths.strength(model, block.strength_of or control) if is_chosen else []

    def dtype(self, model: str) -> str:
        """Type that a (adapted) model is run in."""
        return self.config["models"][paths.base_and_adapter(model)[0]].dtype
