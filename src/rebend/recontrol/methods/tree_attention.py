"""Read several continuations of a text in one forward pass, with an attention mask in the shape of a tree.

A layer with a sliding window sees only the newest positions, also beyond the branches of the tree: its mask has the
window too. Models that mix both kinds of layers get a mask for each.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache

from rebend.errors import ModelError

FULL, SLIDING = "full_attention", "sliding_attention"


class TreeAttention:
    """Reads continuations of left-padded rows, with attention mask [B, T] and a KV cache of the rows' tokens.

    The cache keeps all positions, also of layers with a sliding window. Raises `ModelError` for a model with layers
    that a tree mask cannot describe.
    """

    def __init__(self, model: Any, mask: torch.Tensor, cache: DynamicCache) -> None:
        if "flash" in str(model.config._attn_implementation):
            model.set_attn_implementation("sdpa")  # flash attention does not support tree masks
        self.model, self.mask, self.cache = model, mask, cache
        self.body = getattr(model, model.base_model_prefix)
        self.windows = attention_windows(model.config, self.body)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens [B, N] to the cache; return the final-norm state of the newest token [B, D]."""
        mask = self._longer_mask(tokens.shape[1])
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        output = self.body(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        return output.last_hidden_state[:, -1]

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the final-norm states [B, K, N, D] of K continuations [B, K, N] of every row.

        A token attends to the row's tokens and to earlier tokens of its continuation. The cache does not change.
        """
        _, count, length = tokens.shape
        read_mask = self._longer_mask(0)
        steps = torch.arange(length, device=tokens.device).repeat(count)
        output = self.body(
            input_ids=tokens.flatten(1),
            attention_mask=self._tree_masks(read_mask, count, length),
            position_ids=read_mask.sum(1, keepdim=True) + steps,
            past_key_values=self.cache,
            use_cache=True,
        )
        self._crop_cache(read_mask.shape[1])
        return output.last_hidden_state.unflatten(1, (count, length))

    def _tree_masks(self, read_mask: torch.Tensor, count: int, length: int) -> Any:
        """Return the mask of the model's layers; of each kind of layer by its name, if there are several."""
        masks = {kind: self._tree_mask(read_mask, count, length, window) for kind, window in self.windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _tree_mask(self, read_mask: torch.Tensor, count: int, length: int, window: int | None) -> torch.Tensor:
        """Return the additive mask [B, 1, K·N, T + K·N]: 0 for visible positions, else the least number."""
        branch = torch.arange(count * length, device=read_mask.device) // length
        same_branch = branch[:, None] == branch
        earlier = same_branch & torch.ones_like(same_branch).tril()
        row_tokens = read_mask[:, None].bool().expand(-1, len(branch), -1)
        visible = torch.cat([row_tokens, earlier.expand(len(read_mask), -1, -1)], dim=2)
        if window is not None:
            step = read_mask.shape[1] + torch.arange(length, device=read_mask.device).repeat(count)
            column = torch.cat([torch.arange(read_mask.shape[1], device=read_mask.device), step])
            visible = visible & (column > step[:, None] - window)
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=read_mask.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def _longer_mask(self, more: int) -> torch.Tensor:
        """Return the attention mask of all tokens in the cache and of `more` new ones."""
        width = self.cache.get_seq_length() + more
        return torch.nn.functional.pad(self.mask, (0, width - self.mask.shape[1]), value=1)

    def _crop_cache(self, length: int) -> None:
        """Keep the first `length` positions of the cache."""
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


def attention_windows(config: Any, body: Any) -> dict[str, int | None]:
    """Return the sliding window of each kind of layer of a model, in positions; None for a layer that sees all.

    Raises `ModelError` for a model whose layers see other positions than all, or the newest ones, or that has no
    positions to give: its scores of candidates would be wrong.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or [SLIDING if window is not None else FULL])
    if unknown := sorted(kinds - {FULL, SLIDING}):
        raise ModelError(f"token search: {type(body).__name__} has layers of kind {', '.join(unknown)}; {_INSTEAD}")
    if getattr(text, "alibi", False) or "position_ids" not in inspect.signature(body.forward).parameters:
        raise ModelError(f"token search: {type(body).__name__} takes no positions of tokens (ALiBi); {_INSTEAD}")
    return {kind: window if kind == SLIDING else None for kind in sorted(kinds)}


_INSTEAD = "it can be decoded by the methods `value`, `static` and `best_of_n`"
