"""Read or replace hidden states with hooks on the model: after decoder blocks, or before the LM head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rebend.errors import ModelError


@contextmanager
def before_head(model: Any, act: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Inside the block, call `act` with the last position's final-norm state [B, D] before each LM head.

    The result of `act` replaces the state of that position; None keeps it. Earlier positions of the same pass (a whole
    prompt, in models that compute all its logits) and the KV cache do not change, so `act` changes only the choice of
    the next token. With left padding, the last position is the last token of each row. The hook is removed at the end
    of the block, also after an exception. Raises `ModelError` for a model without an LM head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no LM head; a causal language model is needed")

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        hidden, *rest = inputs
        edited = act(hidden[:, -1])
        if edited is None:
            return None
        edited = edited[:, None]
        return (edited if hidden.shape[1] == 1 else torch.cat([hidden[:, :-1], edited], dim=1)), *rest

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def on_prompts(model: Any, act: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Inside the block, replace the final-norm states [B, T, D] of passes over several positions by `act(states)`.

    Only the last position has an effect on decoding: the others need no logits, and the KV cache holds other states.
    The released code of RE-Control edits all of them.
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


@contextmanager
def on_blocks(blocks: Any, layers: Sequence[int], act: Callable[[int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Inside the block, replace the outputs [B, T, D] of these decoder blocks by `act(layer, output)`."""

    def hook_of(layer: int) -> Callable[[Any, Any, Any], Any]:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            if isinstance(output, torch.Tensor):
                return act(layer, output)
            return (act(layer, output[0]), *output[1:])

        return hook

    handles = [blocks[layer].register_forward_hook(hook_of(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
