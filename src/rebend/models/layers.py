"""Which layer is meant: decoder blocks, and indices into a model's `hidden_states`.

A model with L decoder blocks returns L + 1 hidden states. Index 0 holds the embeddings and index i, for
0 < i < L, the output of block i - 1. Index L is not the output of the last block but the state after the
final norm, called `final` here. RepBend's settings (and its published "20..30") count such indices;
everything else in rebend counts blocks. This module is the only place where one becomes the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebend.errors import ConfigError, ModelError

FINAL = "final"


def hidden_index(layer: int | str, n_layers: int) -> int:
    """Return the index into `hidden_states` of block `layer`'s output, or of the state `final`.

    Raises `ConfigError` for the last block (its output before the norm is not returned by the model) and
    for anything that is no block.
    """
    if layer == FINAL:
        return n_layers
    if isinstance(layer, int) and 0 <= layer < n_layers - 1:
        return layer + 1
    raise ConfigError(
        f"layer {layer!r} has no entry of its own in hidden_states: of a model with {n_layers} decoder blocks, "
        f"blocks 0 to {n_layers - 2} and '{FINAL}' have one"
    )


def layer_of(index: int, n_layers: int) -> int | str:
    """Return the block whose output is `hidden_states[index]`, or `final`; the inverse of `hidden_index`."""
    if index == n_layers:
        return FINAL
    if 0 < index < n_layers:
        return index - 1
    raise ConfigError(f"hidden_states[{index}] is no layer's output: allowed are 1 to {n_layers}")


def target_indices(start: int, window: int, n_layers: int) -> list[int]:
    """Return the indices into `hidden_states` at which unsafe states are pushed: `window` of them from `start`.

    Raises `ConfigError` if the window is empty, begins at the embeddings or ends beyond the model.
    """
    if window < 1:
        raise ConfigError(f"layers_window_size is {window}: at least one target layer is needed")
    last = start + window - 1
    if start < 1 or last > n_layers:
        raise ConfigError(
            f"target_layer_start_idx {start} with layers_window_size {window} asks for hidden_states[{start}] to "
            f"[{last}], but the model has {n_layers} decoder blocks: allowed are indices 1 to {n_layers}"
        )
    return list(range(start, last + 1))


def transform_blocks(blocks: Sequence[int], last_target: int | None, n_layers: int) -> list[int]:
    """Return the decoder blocks that get an adapter, sorted.

    `[-1]` stands for what the released code does with it: every block from 0 to the number of the last target
    index, which is one block more than that index's state passes through. Without a target (None: the loss looks
    at the output) it stands for all blocks.
    Raises `ConfigError` for blocks that the model does not have, that are named twice, or none at all.
    """
    if list(blocks) == [-1]:
        return list(range(n_layers if last_target is None else min(last_target, n_layers - 1) + 1))
    twice = sorted({block for block in blocks if list(blocks).count(block) > 1})
    if twice:
        raise ConfigError(f"transform_layers names blocks twice: {twice}")
    wrong = sorted(block for block in blocks if not 0 <= block < n_layers)
    if wrong or not blocks:
        raise ConfigError(
            f"transform_layers {list(blocks)}: {f'{wrong} are no blocks of the model' if wrong else 'names no block'}; "
            f"allowed are 0 to {n_layers - 1}, or [-1] alone for all up to the last target layer"
        )
    if last_target is not None and min(blocks) >= last_target:
        raise ConfigError(
            f"transform_layers {sorted(blocks)} cannot change any target: hidden_states[{last_target}], the last one, "
            f"depends on blocks 0 to {last_target - 1} only"
        )
    return sorted(blocks)


def decoder_blocks(model: Any) -> Any:
    """Return the model's list of decoder blocks (a `ModuleList` of L modules), under whatever name it stands.

    Raises `ModelError` if the model has no such list.
    """
    return named_blocks(model)[1]


def named_blocks(model: Any) -> tuple[str, Any]:
    """Return the name of that list, without what stands before it, and the list."""
    n_layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if type(module).__name__ == "ModuleList" and len(module) == n_layers:
            return name.rsplit(".", 1)[-1], module
    raise ModelError(f"{type(model).__name__}: no list of {n_layers} decoder blocks was found")
