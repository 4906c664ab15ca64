"""See or replace the state from which the next token is sampled, without touching a model's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rebend.errors import ModelError


@contextmanager
def before_head(model: Any, act: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Inside the block, call `act` with the newest position's final-norm state [B, D] before each LM head.

    What `act` returns replaces that position, None leaves it. Older positions of the same pass (a whole
    prompt, in models that compute all its logits) are never touched, nor is the KV cache: only the choice
    of the next token can change. With left padding the newest position is the last one in every row.
    The hook is gone when the block ends, however it ends.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no LM head; a causal language model is needed")

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        hidden, *rest = inputs
        newest = act(hidden[:, -1])
        if newest is None:
            return None
        newest = newest[:, None]
        return (newest if hidden.shape[1] == 1 else torch.cat([hidden[:, :-1], newest], dim=1)), *rest

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def on_prompts(model: Any, act: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Inside the block, replace the final-norm states [B, T, D] of passes over several positions by `act` of them.

    All but the newest position is for nothing in decoding: no logits are wanted there, and the KV cache holds other
    states. The released RE-Control does it, so it can be had.
    """

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        if output.last_hidden_state.shape[1] > 1:
            output.last_hidden_state = act(output.last_hidden_state)
        return output

    handle = model.get_decoder().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
