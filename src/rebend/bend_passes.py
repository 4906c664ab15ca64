"""One pass of a model over a step's batches, keeping only what RepBend's terms look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebend.bend_batches import Batch


@dataclass(frozen=True)
class Layers:
    """Indices into `hidden_states` at which the terms compare states."""

    keep: list[int]
    push: list[int]


@dataclass(frozen=True)
class Pass:
    """What one pass has shown; states are lists with one tensor per layer, rows in the order of the batches."""

    safe: list[Tensor]  # [N, D] at target tokens of safe rows, for each layer of `keep`
    unsafe: list[Tensor]  # [N, D] at target tokens of unsafe rows, for each layer of `push`
    ends: list[Tensor]  # [B, D] at the last prompt token of unsafe rows, for each layer of `push`
    logits: list[Tensor]  # [N, V] at all tokens of retain rows, for each batch


def run_pass(model: Any, parts: Sequence[Batch], layers: Layers) -> Pass:
    """Run a causal language model over all batches, as it is now (adapter, mode and gradient are the caller's).

    Logits are computed for tokens of retain rows alone.
    """
    safe: list[list[Tensor]] = []
    unsafe: list[list[Tensor]] = []
    ends: list[list[Tensor]] = []
    logits: list[Tensor] = []
    for part in parts:
        with head_sees(model, part.retain):
            seen = model(input_ids=part.tokens, output_hidden_states=True, use_cache=False)
        flat = [states.flatten(0, 1) for states in seen.hidden_states]
        safe.append([flat[layer].index_select(0, part.safe) for layer in layers.keep])
        unsafe.append([flat[layer].index_select(0, part.unsafe) for layer in layers.push])
        ends.append([flat[layer].index_select(0, part.ends) for layer in layers.push])
        logits.append(seen.logits[0])
    return Pass(_by_layer(safe), _by_layer(unsafe), _by_layer(ends), logits)


@contextmanager
def head_sees(model: Any, positions: Tensor) -> Iterator[None]:
    """Inside the block, the language-model head gets only the states at `positions` of the flattened `[B * T]`.

    The model's own code goes on with what comes out, `[1, N, V]`, so that logits that an architecture scales or
    caps after the head are right too.
    """

    def select(head: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, positions)[None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _by_layer(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]
