"""The interface of methods that act while decoding, on the prompt, the final hidden state or the next token's logits.

This room calls `Control` and imports no method; `rebend.recontrol.methods` has the implementations. A state is the
output of the final norm at the newest position, the input of the LM head. The KV cache is never edited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from rebend.generation.norm_limit import MAX_RELATIVE_NORM, clip_edit
from rebend.generation.stopping import StopOnText
from rebend.models.chat import Message
from rebend.models.loading import Policy

# (states [A, D] in float32, their row numbers in the batch [A]) -> edited states [A, D]
Edit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SearchStart:
    """A batch at the start of a token search, before the model reads the prompts."""

    policy: Policy
    messages: Sequence[Sequence[Message]]  # one conversation per row, without the control's changes
    mask: torch.Tensor  # attention mask [B, T] of the left-padded prompts
    ends: Sequence[int]  # tokens that end a response
    max_new_tokens: int
    prefills: Sequence[str] = ()  # the given beginning of each row's response; empty: no row has one


class Search(Protocol):
    """Changes the next token's logits. The decoding loop uses its KV cache."""

    cache: Any
    newest: torch.Tensor  # states [B, D] that the next tokens are sampled from; set before each call

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return changed logits [B, V] from the logits `scores` [B, V] after `input_ids` [B, T]."""
        ...

    def clipped(self) -> torch.Tensor:
        """Return the steps [B, T] at which a row had a non-finite score, on the CPU."""
        ...


class Control(Protocol):
    """A method that acts while decoding."""

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages for the model's prompt."""
        ...

    def begin(self, seeds: Sequence[int]) -> Edit | None:
        """Return the edit of a batch's states, from one seed per row; None if the control edits no state."""
        ...

    def search(self, start: SearchStart) -> Search | None:
        """Return the token search of a batch; None if the control changes no logits."""
        ...

    @property
    def candidates_per_token(self) -> int:
        """The number of candidate tokens that the search scores at each step; 0 without a search."""
        ...

    @property
    def norm_limit(self) -> float:
        """The longest edit, in lengths of the state; infinity for no limit."""
        ...

    @property
    def whole_prompt(self) -> bool:
        """Whether the edit applies to all positions of the prompt, not only to the newest."""
        ...


@dataclass(frozen=True)
class NoControl:
    """Changes nothing. Methods derive from it and override the members for the things they change."""

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages unchanged."""
        return list(messages)

    def begin(self, seeds: Sequence[int]) -> Edit | None:
        """Return None: no edit."""
        return None

    def search(self, start: SearchStart) -> Search | None:
        """Return None: no search."""
        return None

    @property
    def candidates_per_token(self) -> int:
        """Return 0: no search."""
        return 0

    @property
    def norm_limit(self) -> float:
        """Return the common limit of edits."""
        return MAX_RELATIVE_NORM

    @property
    def whole_prompt(self) -> bool:
        """Return False: no edit of the prompt."""
        return False


class StateEditor:
    """Hook on the newest states of a batch: stores the states, applies the control's edit and measures its norm."""

    def __init__(
        self,
        stops: StopOnText,
        edit: Edit | None,
        keep: bool,
        search: Search | None = None,
        norm_limit: float = MAX_RELATIVE_NORM,
    ) -> None:
        self.stops, self.edit, self.keep, self.search, self.norm_limit = stops, edit, keep, search, norm_limit
        self.states: list[torch.Tensor] = []
        self.edit_norms: list[torch.Tensor] = []
        self.clipped: list[torch.Tensor] = []

    def __call__(self, states: torch.Tensor) -> torch.Tensor | None:
        """Return the edited states [B, D] of one step; None without an edit."""
        if self.keep:
            self.states.append(states.clone())
        if self.search is not None:
            self.search.newest = states
        if self.edit is None:
            return None
        rows = self.stops.rows()  # ended rows are skipped to save time
        if len(rows) == len(states):
            after, norm, clipped = edited(self.edit, states, rows, self.norm_limit)
            self.edit_norms.append(norm)
            self.clipped.append(clipped)
            return after
        after, norm, clipped = edited(self.edit, states[rows], rows, self.norm_limit)
        self.edit_norms.append(states.new_zeros(len(states), dtype=torch.float32).index_copy_(0, rows, norm))
        no_row = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        self.clipped.append(no_row.index_copy_(0, rows, clipped))
        return states.index_copy(0, rows, after)

    def edit_prompt(self, states: torch.Tensor) -> torch.Tensor:
        """Edit all positions of the prompts' states [B, T, D] but the newest.

        Padding is edited too, as in RE-Control's released code.
        """
        assert self.edit is not None
        rows = torch.arange(len(states), device=states.device).repeat_interleave(states.shape[1] - 1)
        flat = states[:, :-1].reshape(-1, states.shape[2])
        after, _, _ = edited(self.edit, flat, rows, self.norm_limit)
        return torch.cat([after.view(len(states), -1, states.shape[2]), states[:, -1:]], dim=1)

    def collected(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return edit norms [B, T], clipped steps [B, T] and the states [B, T, D] (None if not kept), on the CPU."""
        norms = torch.stack(self.edit_norms, 1).cpu() if self.edit_norms else torch.zeros(0, 0)
        clipped = torch.stack(self.clipped, 1).cpu() if self.clipped else torch.zeros(0, 0, dtype=torch.bool)
        if self.search is not None:
            clipped = self.search.clipped()
        return norms, clipped, torch.stack(self.states, 1).cpu() if self.states else None


def edited(
    edit: Edit, states: torch.Tensor, rows: torch.Tensor, norm_limit: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the edited states [A, D] in their own type, the norms [A] of the edits and the clipped rows [A]."""
    before = states.float()
    after, norm, clipped = clip_edit(before, edit(before, rows), norm_limit)
    return after.to(states.dtype), norm, clipped
