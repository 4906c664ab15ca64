"""Prompting: an instruction in front of the user's last message, alone or together with another control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rebend.config.controls import PromptingBlock
from rebend.generation.intervention import Control, Edit, NoControl, Search, SearchStart
from rebend.models.chat import Message, with_instruction
from rebend.recontrol.resources import ControlResources


def make(block: PromptingBlock, resources: ControlResources) -> Prompting:
    """Return the control with the block's instruction."""
    return Prompting(block.instruction)


@dataclass(frozen=True)
class Prompting(NoControl):
    """Puts an instruction in front of the user's last message."""

    instruction: str

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with the instruction."""
        return with_instruction(messages, self.instruction)


@dataclass(frozen=True)
class Prompted(NoControl):
    """Adds an instruction to another control."""

    instruction: str
    control: Control

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the other control's messages with the instruction."""
        return with_instruction(self.control.messages(messages), self.instruction)

    def begin(self, seeds: Sequence[int]) -> Edit | None:
        """Return the other control's edit."""
        return self.control.begin(seeds)

    def search(self, start: SearchStart) -> Search | None:
        """Return the other control's search."""
        return self.control.search(start)

    @property
    def candidates_per_token(self) -> int:
        """Return the other control's number of candidates."""
        return self.control.candidates_per_token

    @property
    def norm_limit(self) -> float:
        """Return the other control's limit of an edit, in lengths of the state."""
        return self.control.norm_limit

    @property
    def whole_prompt(self) -> bool:
        """Return whether the other control edits the whole prompt."""
        return self.control.whole_prompt
