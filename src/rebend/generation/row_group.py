"""Unfinished responses that are decoded together: their tokens, random numbers, attention mask and KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad

from rebend.generation.growing_cache import GrowingCache
from rebend.generation.requests import Request


@dataclass
class Row:
    """An unfinished response."""

    number: int  # of its request
    request: Request
    tokens: list[int] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    edit_norms: list[float] = field(default_factory=list)
    clipped: list[bool] = field(default_factory=list)
    ended: bool = False
    yielded: bool = False


@dataclass
class RowGroup:
    """Rows with one KV cache, padded on the left to the longest of them."""

    rows: list[Row]
    numbers: torch.Tensor  # [B, max_new_tokens], random numbers of each row
    cache: GrowingCache
    mask: torch.Tensor  # attention mask [B, T]

    @property
    def width(self) -> int:
        """The number of positions T."""
        return self.mask.shape[1]

    def n_alive(self) -> int:
        """Return the number of rows that have not ended."""
        return sum(not row.ended for row in self.rows)

    def positions(self) -> torch.Tensor:
        """Return the position of every token in its row [B, T]."""
        return (self.mask.cumsum(1) - 1).clamp_min(0)

    def add_column(self) -> None:
        """Make the mask one position longer, for the newest token of every row."""
        self.mask = pad(self.mask, (0, 1), value=1)

    def take_ended(self) -> list[Row]:
        """Return the rows that have ended since the last call."""
        ended = [row for row in self.rows if row.ended and not row.yielded]
        for row in ended:
            row.yielded = True
        return ended

    def shrink(self) -> None:
        """Remove the ended rows. At least one row must be alive."""
        alive = [i for i, row in enumerate(self.rows) if not row.ended]
        if len(alive) == len(self.rows):
            return
        self._drop_padding(alive)
        index = torch.tensor(alive, device=self.mask.device)
        self.rows, self.numbers, self.mask = [self.rows[i] for i in alive], self.numbers[index], self.mask[index]
        for layer in self.cache.layers:
            layer.keep_rows(index)

    def joined(self, others: RowGroup) -> RowGroup:
        """Return this group with the rows of `others`, which has at most as many columns, appended."""
        missing = self.width - others.width
        self.rows = [*self.rows, *others.rows]
        self.numbers = torch.cat([self.numbers, others.numbers])
        self.mask = torch.cat([self.mask, pad(others.mask, (missing, 0))])
        for layer, more in zip(self.cache.layers, others.cache.layers, strict=True):
            layer.append_rows(more)
        return self

    def can_take(self, new: RowGroup, padding: float) -> bool:
        """Return whether `refilled` can place the rows of `new`, with at most `padding` positions of it in each row."""
        return len(new.rows) <= len(self.rows) - self.n_alive() and self.width - new.width <= padding

    def refilled(self, new: RowGroup) -> RowGroup:
        """Return this group with the rows of `new`, which has at most as many columns, in place of ended rows."""
        free = [i for i, row in enumerate(self.rows) if row.ended]
        if len(free) == len(self.rows):
            return new
        self._drop_padding([i for i, row in enumerate(self.rows) if not row.ended])
        for i, row, numbers, mask in zip(free, new.rows, new.numbers, new.mask, strict=False):
            self.rows[i], self.numbers[i] = row, numbers
            self.mask[i] = pad(mask, (self.width - len(mask), 0))
        for layer, new_layer in zip(self.cache.layers, new.cache.layers, strict=True):
            layer.replace_rows(free, new_layer)
        return self

    def _drop_padding(self, alive: Sequence[int]) -> None:
        """Remove the oldest columns that are padding in all rows of `alive`."""
        columns = int(self.mask[torch.tensor(alive, device=self.mask.device)].any(0).long().argmax())
        self.mask = self.mask[:, columns:]
        for layer in self.cache.layers:
            layer.drop(columns)
