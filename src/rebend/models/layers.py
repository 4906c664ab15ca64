"""Layers by number: decoder blocks, and indices into a model's `hidden_states`.

A model with L decoder blocks returns L + 1 hidden states. Index 0 is the embeddings and index i, for 0 < i < L, the
output of block i - 1. Index L is not the output of the last block but the state after the final norm, called `final`
here. RepBend's settings (and its published "20..30") are such indices; all other numbers in rebend are blocks. Only
this module converts one into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebend.errors import ConfigError, ModelError

FINAL = "final"


def layer_of(index: int, n_layers: int) -> int | str:
    """Return the block whose output is `hidden_states[index]`, or `final`.

    Raises `ConfigError` for an index that is no output of a block: the embeddings (0), or beyond the model.
    """
    if index == n_layers:
        return FINAL
    if 0 < index < n_layers:
        return index - 1
    raise ConfigError(f"hidden_states[{index}] is no layer's output: allowed are 1 to {n_layers}")


def target_indices(start: int, window: int, n_layers: int) -> list[int]:
    """Return `window` indices into `hidden_states` from `start` on: the target layers of a method.

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


def transform_blocks(blocks: Sequence[int], last_index: int | None, n_layers: int) -> list[int]:
    """Return the decoder blocks that get an adapter, sorted.

    `[-1]` means the same as in the released code: every block from 0 to the number `last_index` of the last target
    index, one block more than the state at that index passes through. Without a target (None: the loss reads the
    output) it means all blocks. Raises `ConfigError` for no blocks, blocks named twice, blocks that the model does not
    have, and blocks that change no target.
    """
    if list(blocks) == [-1]:
        return list(range(n_layers if last_index is None else min(last_index, n_layers - 1) + 1))
    twice = sorted({block for block in blocks if list(blocks).count(block) > 1})
    if twice:
        raise ConfigError(f"transform_layers names blocks twice: {twice}")
    wrong = sorted(block for block in blocks if not 0 <= block < n_layers)
    if wrong or not blocks:
        raise ConfigError(
            f"transform_layers {list(blocks)}: {f'{wrong} are no blocks of the model' if wrong else 'names no block'}; "
            f"allowed are 0 to {n_layers - 1}, or [-1] alone for all up to the last target layer"
        )
    if last_index is not None and min(blocks) >= last_index:
        raise ConfigError(
            f"transform_layers {sorted(blocks)} cannot change any target: hidden_states[{last_index}], the last one, "
            f"depends on blocks 0 to {last_index - 1} only"
        )
    return sorted(blocks)


def decoder_blocks(model: Any) -> Any:
    """Return the model's list of decoder blocks (a `ModuleList` of L modules); its name differs between architectures.

    Raises `ModelError` if the model has no such list.
    """
    return named_blocks(model)[1]


def named_blocks(model: Any) -> tuple[str, Any]:
    """Return the last part of the name of the list of decoder blocks, and the list.

    Raises `ModelError` if the model has no such list.
    """
    n_layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if type(module).__name__ == "ModuleList" and len(module) == n_layers:
            return name.rsplit(".", 1)[-1], module
    raise ModelError(f"{type(model).__name__}: no list of {n_layers} decoder blocks was found")
