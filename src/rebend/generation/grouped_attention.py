"""Decode groups of rows together, each group with a KV cache as wide as its own longest text.

A step of all rows is one pass through the model; only attention runs group by group. So a row that has a short prompt
neither waits for rows with long prompts nor reads padding in the cache, and every product of matrices has all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rebend.generation.growing_cache import GrowingCache, GrowingLayer

_NAME = "rebend_groups"


def supports_groups(model: Any) -> bool:
    """Return whether the attention of the model can be replaced for the time of a step."""
    return bool(getattr(model, "_supports_attention_backend", False)) and model.config._attn_implementation == "sdpa"


@contextmanager
def in_groups(model: Any) -> Iterator[None]:
    """Inside the block, the model's attention takes a `GroupedCache`."""
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = "sdpa"


class GroupedCache(DynamicCache):
    """The caches of several groups of rows, for one step of all of them; row order is the order of the groups.

    `masks` are the attention masks [B, T] of the groups, the new token included.
    """

    def __init__(self, config: Any, caches: Sequence[GrowingCache], masks: Sequence[torch.Tensor]) -> None:
        super().__init__(config=config)
        wide = [mask[:, None, None].bool() for mask in masks]
        parts = zip(*(cache.layers for cache in caches), strict=True)
        self.layers: list[Any] = [_GroupedLayer(layers, wide) for layers in parts]


@dataclass(frozen=True)
class _GroupedStates:
    """Keys or values [B, heads, T, d] of each group, and the masks [B, 1, 1, T] of the groups."""

    groups: list[torch.Tensor]
    masks: Sequence[torch.Tensor]


class _GroupedLayer(DynamicLayer):
    """One layer of all groups."""

    def __init__(self, groups: Sequence[GrowingLayer], masks: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.groups, self.masks = groups, masks

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append keys and values [B, heads, 1, d] of all rows to their groups; return those of each group."""
        sizes = [len(mask) for mask in self.masks]
        new = zip(self.groups, key_states.split(sizes), value_states.split(sizes), strict=True)
        pairs = [group.update(keys, values) for group, keys, values in new]
        keys, values = ([pair[i] for pair in pairs] for i in (0, 1))
        return _GroupedStates(keys, self.masks), _GroupedStates(values, self.masks)


def _attention(module: Any, query: torch.Tensor, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
    """Return the attention [B, 1, heads, d] of one new token per row to the texts of its own group."""
    sizes = [len(group) for group in key.groups]
    parts = zip(query.split(sizes), key.groups, value.groups, key.masks, strict=True)
    return torch.cat(
        [sdpa_attention_forward(module, q, k, v, m.to(q.device), **options)[0] for q, k, v, m in parts]
    ), None


AttentionInterface.register(_NAME, _attention)
