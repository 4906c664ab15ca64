"""What is done to a prompt, or to the final hidden state of the position being sampled, while decoding.

RE-Control (arXiv:2406.05954, section 4): at each token, n steps of gradient ascent on the value network,
h <- h + α ∇V(h), between the final norm and the LM head. The KV cache is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch

from rebend.models.chat import Message, with_instruction
from rebend.models.loading import Policy
from rebend.recontrol.methods.ascent_kernels import hold_back
from rebend.recontrol.methods.value_ascent import Slopes, climb
from rebend.recontrol.value_model.network import ValueNetwork

# Takes the states [A, D] (float32) of the rows [A] of the batch that still go on; returns them changed.
Edit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LONGEST_MOVE = 10.0  # in lengths of the state itself; well beyond where text breaks


@dataclass(frozen=True)
class SearchStart:
    """What a token search begins with: a batch whose prompts were not read yet."""

    policy: Policy
    messages: Sequence[Sequence[Message]]  # of each row, as they were before a control changed them
    mask: torch.Tensor  # [B, T], of the left-padded prompts
    ends: Sequence[int]  # tokens that end a response
    max_new_tokens: int
    prefills: Sequence[str] = ()  # what stands in the model's mouth already, of each row; none if empty


class Search(Protocol):
    """Chooses among candidates for the next token, with a KV cache that the decoding loop shares."""

    cache: Any
    newest: torch.Tensor  # [B, D], set before each call: the state that the next token is sampled from

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take logits [B, V] after `input_ids` and return them changed."""
        ...

    def held_back(self) -> torch.Tensor:
        """Return the steps [B, T] at which a score was no number, on the CPU."""
        ...


class Control(Protocol):
    """A control changes the prompt, the state, the choice of the next token, or none of them."""

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages that the model is given."""
        ...

    def begin(self, seeds: Sequence[int]) -> Edit | None:
        """Start a batch whose rows have these seeds; None if states are left alone."""
        ...

    def search(self, start: SearchStart) -> Search | None:
        """Start a batch; None if the choice of tokens is left to the sampler."""
        ...

    @property
    def whole_prompt(self) -> bool:
        """Whether the states of all positions of the prompt are edited, too."""
        ...


@dataclass(frozen=True)
class NoControl:
    """The model as it is."""

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages unchanged."""
        return list(messages)

    def begin(self, seeds: Sequence[int]) -> Edit | None:
        """Leave states alone."""
        return None

    def search(self, start: SearchStart) -> Search | None:
        """Leave the choice of tokens to the sampler."""
        return None

    @property
    def whole_prompt(self) -> bool:
        """Leave the prompt's states alone."""
        return False


@dataclass(frozen=True)
class Prompting(NoControl):
    """An instruction in front of the user's last message; nothing else changes."""

    instruction: str

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with the instruction."""
        return with_instruction(messages, self.instruction)


@dataclass(frozen=True)
class Prompted(NoControl):
    """An instruction together with another control."""

    instruction: str
    control: Control

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with the instruction."""
        return with_instruction(self.control.messages(messages), self.instruction)

    def begin(self, seeds: Sequence[int]) -> Edit | None:
        """Start the other control."""
        return self.control.begin(seeds)

    def search(self, start: SearchStart) -> Search | None:
        """Start the other control's search."""
        return self.control.search(start)

    @property
    def whole_prompt(self) -> bool:
        """As the other control does."""
        return self.control.whole_prompt


@dataclass(frozen=True)
class ValueAscent(NoControl):
    """n steps h <- h + α ∇V(h) up the value network, which must be on the model's device."""

    network: ValueNetwork
    step_size: float
    n_steps: int
    variant: Literal["released_code", "corrected"] = "corrected"  # published: all positions of the prompt climb, too

    @cached_property
    def slopes(self) -> Slopes:
        """What the climbs of all tokens share."""
        return Slopes(self.network)

    @property
    def whole_prompt(self) -> bool:
        """Whether every position climbs, as in the released code; no token depends on it, only the time."""
        return self.variant == "released_code"

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Climb from each state."""
        return lambda states, rows: self.climbed(states)

    def climbed(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states [A, D] at the end of their climb."""
        return climb(self.network, states, self.step_size, self.n_steps, self.slopes)


@dataclass(frozen=True)
class RandomDirection(ValueAscent):
    """As far as the value control would go from the same state, in a direction drawn anew for each token.

    It tells apart what the value network knows from what any push of that length does.
    """

    def begin(self, seeds: Sequence[int]) -> Edit:
        """Each row draws from its own generator, so that other rows do not matter."""
        generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]

        def edit(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            _, length, _ = bounded(states, self.climbed(states))
            drawn = [torch.randn(states.shape[1], generator=generators[row]) for row in rows.tolist()]
            direction = torch.stack(drawn).to(states.device)
            return states + direction * (length / direction.norm(dim=1)).unsqueeze(1)

        return edit


def bounded(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a safe `after` [B, D], the distance moved [B], and which rows had to be held back [B].

    A row that is not finite stays where it was; one that moved further than LONGEST_MOVE lengths of the
    state is brought back to that distance. Both are counted, never silent.
    """
    if before.device.type == "cpu":
        after = after.clone() if after.data_ptr() == before.data_ptr() else after
        distance, back = np.empty(len(before), np.float32), np.empty(len(before), np.bool_)
        hold_back(before.contiguous().numpy(), after.numpy(), distance, back, LONGEST_MOVE)
        return after, torch.from_numpy(distance), torch.from_numpy(back)
    finite = torch.isfinite(after).all(dim=1)
    move = torch.where(finite[:, None], after - before, 0.0)
    length = move.norm(dim=1)
    limit = LONGEST_MOVE * before.norm(dim=1)
    held = ~finite | (length > limit)
    scale = torch.where(length > limit, limit / length.clamp_min(1e-30), 1.0)
    after = torch.where(held[:, None], before + move * scale[:, None], after)
    return after, length * scale, held
