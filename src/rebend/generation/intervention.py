"""The states that tokens are sampled from: kept, edited, and how far they were moved."""

from __future__ import annotations

import torch

from rebend.generation.sampling import Watch
from rebend.recontrol.methods.controls import Edit, Search, bounded


class Newest:
    """What happens at each newest state: keep it, let the control edit it, measure how far it moved."""

    def __init__(self, watch: Watch, edit: Edit | None, keep: bool, search: Search | None = None) -> None:
        self.watch, self.edit, self.keep, self.search = watch, edit, keep, search
        self.states: list[torch.Tensor] = []
        self.moved: list[torch.Tensor] = []
        self.held: list[torch.Tensor] = []

    def __call__(self, states: torch.Tensor) -> torch.Tensor | None:
        """Take the states [B, D] of one step; return them edited, or None if there is no control."""
        if self.keep:
            self.states.append(states.clone())
        if self.search is not None:
            self.search.newest = states
        if self.edit is None:
            return None
        rows = self.watch.rows()  # ended rows are not worth the work
        if len(rows) == len(states):
            before = states.float()
            after, length, held = bounded(before, self.edit(before, rows))
            self.moved.append(length)
            self.held.append(held)
            return after.to(states.dtype)
        before = states[rows].float()
        after, length, held = bounded(before, self.edit(before, rows))
        self.moved.append(states.new_zeros(len(states), dtype=torch.float32).index_copy_(0, rows, length))
        self.held.append(torch.zeros(len(states), dtype=torch.bool, device=states.device).index_copy_(0, rows, held))
        return states.index_copy(0, rows, after.to(states.dtype))

    def prompt(self, states: torch.Tensor) -> torch.Tensor:
        """Edit all positions [B, T, D] of prompts but the newest, padding too, as the released code does."""
        assert self.edit is not None
        before = states[:, :-1].reshape(-1, states.shape[2]).float()
        rows = torch.arange(len(states), device=states.device).repeat_interleave(states.shape[1] - 1)
        after, _, _ = bounded(before, self.edit(before, rows))
        return torch.cat([after.to(states.dtype).view(len(states), -1, states.shape[2]), states[:, -1:]], dim=1)

    def collected(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return displacement [B, T], held [B, T], and states [B, T, D] if they were kept, on the CPU."""
        moved = torch.stack(self.moved, 1).cpu() if self.moved else torch.zeros(0, 0)
        held = torch.stack(self.held, 1).cpu() if self.held else torch.zeros(0, 0, dtype=torch.bool)
        if self.search is not None:
            held = self.search.held_back()
        return moved, held, torch.stack(self.states, 1).cpu() if self.states else None
