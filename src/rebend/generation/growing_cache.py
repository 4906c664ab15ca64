"""A KV cache that grows without copying and takes new rows in place of ended ones.

The library's cache copies all keys and values at each token: six tenths of a step's time at 600 positions (60 rows of a
model of 135 M, on a CPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_EXTRA_COLUMNS = 64  # free columns of a new buffer


def has_ordinary_cache(model: Any) -> bool:
    """Return whether every layer of the model has an ordinary cache of all positions."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    ordinary = not getattr(model, "_is_stateful", False) and not config.is_encoder_decoder
    return ordinary and kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None


class GrowingCache(DynamicCache):
    """A cache whose layers are `GrowingLayer`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.layers: list[Any] = [GrowingLayer() for _ in self.layers]


class GrowingLayer(DynamicLayer):
    """Keys and values [B, heads, T, d] of one layer, in buffers with free columns.

    A new token is written to the next column, the same one in every row. `keys` and `values` are views of the columns
    in use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[torch.Tensor] = []
        self.first = self.end = 0
        self.keys: Any
        self.values: Any

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append keys and values [B, heads, T, d]; return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states, value_states
        more = key_states.shape[2]
        if not self.buffers or self.buffers[0].shape[2] < self.end + more:
            self._grow(new)
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, self.end : self.end + more] = states
        self.end += more
        self._update_views()
        return self.keys, self.values

    def _grow(self, new: tuple[Any, Any]) -> None:
        old_buffers, width = self.buffers, self.end - self.first
        self.buffers = [x.new_empty(*x.shape[:2], width + x.shape[2] + _EXTRA_COLUMNS, x.shape[3]) for x in new]
        for buffer, old in zip(self.buffers, old_buffers, strict=False):
            buffer[:, :, :width] = old[:, :, self.first : self.end]
        self.first, self.end = 0, width

    def _update_views(self) -> None:
        self.keys, self.values = (buffer[:, :, self.first : self.end] for buffer in self.buffers)

    def _replace(self, buffers: list[torch.Tensor]) -> None:
        self.buffers = buffers
        self.first, self.end = 0, buffers[0].shape[2]
        self._update_views()

    def drop(self, columns: int) -> None:
        """Remove the oldest columns."""
        self.first += columns
        self._update_views()

    def append_rows(self, others: GrowingLayer) -> None:
        """Append the rows of `others`, which has at most as many columns; they are padded on the left."""
        missing = self.keys.shape[2] - others.keys.shape[2]
        pairs = zip((self.keys, self.values), (others.keys, others.values), strict=True)
        self._replace([torch.cat([states, pad(other, (0, 0, missing, 0))]) for states, other in pairs])

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Remove all rows except `rows`."""
        self._replace([buffer[rows, :, self.first : self.end] for buffer in self.buffers])

    def replace_rows(self, rows: Sequence[int], new: GrowingLayer) -> None:
        """Overwrite these rows with those of `new`, which has at most as many columns.

        Older columns of these rows keep stale numbers; the attention mask hides them.
        """
        width = new.end - new.first
        for buffer, states in zip(self.buffers, (new.keys, new.values), strict=True):
            for row, state in zip(rows, states, strict=False):
                buffer[row, :, self.end - width : self.end] = state
