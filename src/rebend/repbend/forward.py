"""Length-sorted batches with at most 8 % padding, and the hidden states at the token positions that a loss reads.

A loss names positions: an `Example` is a text with, under each name, the positions of the tokens whose hidden states
the loss reads. A causal model's token does not depend on the tokens to its right, so texts of similar length are padded
on the right without an attention mask. With flash attention, all texts are packed into one row instead; the model
separates them by their position ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebend.models.layers import FINAL, decoder_blocks, layer_of
from rebend.models.lockstep import max_over_ranks

MAX_PADDING = 0.08  # largest share of padding in a batch; a lower one makes more and smaller batches

Layers = Mapping[str, Sequence[int]]  # name of positions -> indices into hidden_states
Taken = dict[str, dict[int, list[Tensor]]]  # name of positions -> index into hidden_states -> states of each batch


@dataclass(frozen=True)
class Example:
    """The tokens of one text, and the positions that a loss reads, by name."""

    tokens: Sequence[int]
    positions: Mapping[str, Sequence[int]]
    n_padding: int = 0  # last tokens that attend to the text, but that no token attends to, not even themselves


@dataclass(frozen=True)
class Batch:
    """Some examples as one input; `positions` index the flattened `[B * T]` and are never padding."""

    tokens: Tensor  # [B, T]
    position_ids: Tensor | None  # [B, T]: count from 0 in each text of a packed row; None if each row is one text
    positions: Mapping[str, Tensor]
    example_index: Mapping[str, Tensor]  # the example of each position
    attention_mask: Tensor | None = None  # [B, T]: 0 for padding; None if no padding is read


@dataclass(frozen=True)
class HiddenStates:
    """States of one pass: for each name, a tensor `[N, D]` per layer; positions in the order of the batches."""

    states: dict[str, list[Tensor]]
    example_index: dict[str, Tensor]  # [N]: the example of each position

    def last(self, name: str) -> Tensor:
        """Return the states `[N, D]` of the last layer of a name."""
        return self.states[name][-1]

    def ordered(self, name: str) -> list[Tensor]:
        """Return the states of a name, positions in the order of the examples instead of the batches."""
        order = self.example_index[name].argsort(stable=True)
        return [states.index_select(0, order) for states in self.states[name]]


Numbered = Sequence[tuple[int, Example]]  # examples with their index


def make_batches(examples: Sequence[Example], device: torch.device, *, packed: bool = False) -> list[Batch]:
    """Sort examples by length and divide them into batches with at most `MAX_PADDING`; or pack all into one row.

    In lockstep with other ranks, empty batches are added until all ranks have the same number.
    """
    names = list(dict.fromkeys(name for example in examples for name in example.positions))
    if packed:
        return [_packed(list(enumerate(examples)), names, device)]
    batches = [_padded(group, names, device) for group in _groups_by_length(examples)]
    tokens = torch.zeros(1, 1, dtype=torch.long, device=device)
    empty = Batch(tokens, None, *_positions([], [], names, device))
    return batches + [empty] * (max_over_ranks(len(batches)) - len(batches))


def _groups_by_length(examples: Sequence[Example]) -> list[list[tuple[int, Example]]]:
    """Divide examples into groups, longest first, whose rectangle holds at most `MAX_PADDING`."""
    groups: list[list[tuple[int, Example]]] = []
    n_tokens = 0
    for number, example in sorted(enumerate(examples), key=lambda numbered: -len(numbered[1].tokens)):
        n_tokens += len(example.tokens)
        if groups and n_tokens >= (1 - MAX_PADDING) * len(groups[-1][0][1].tokens) * (len(groups[-1]) + 1):
            groups[-1].append((number, example))
        else:
            groups.append([(number, example)])
            n_tokens = len(example.tokens)
    return groups


def _padded(numbered: Numbered, names: Sequence[str], device: torch.device) -> Batch:
    longest = max(len(example.tokens) for _, example in numbered)
    tokens = torch.zeros(len(numbered), longest, dtype=torch.long)  # the padding token has no effect
    for row, (_, example) in enumerate(numbered):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
    starts = [row * longest for row in range(len(numbered))]
    mask = _attention_mask([example for _, example in numbered], longest, device)
    return Batch(tokens.to(device), None, *_positions(numbered, starts, names, device), mask)


def _attention_mask(examples: Sequence[Example], longest: int, device: torch.device) -> Tensor | None:
    """Return the mask of a batch in which padding is read; None for other batches, which need none."""
    if not any(example.n_padding for example in examples):
        return None
    lengths = torch.tensor([len(example.tokens) - example.n_padding for example in examples])
    return (torch.arange(longest) < lengths[:, None]).long().to(device)


def _packed(numbered: Numbered, names: Sequence[str], device: torch.device) -> Batch:
    lengths = [len(example.tokens) for _, example in numbered]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    tokens = torch.tensor([[token for _, example in numbered for token in example.tokens]])
    position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
    return Batch(tokens.to(device), position_ids.to(device), *_positions(numbered, starts, names, device))


def _positions(
    numbered: Numbered, starts: Sequence[int], names: Sequence[str], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the flattened positions of each name, and the example of each."""
    positions: dict[str, list[int]] = {name: [] for name in names}
    example_index: dict[str, list[int]] = {name: [] for name in names}
    for start, (number, example) in zip(starts, numbered, strict=True):
        for name, in_example in example.positions.items():
            positions[name].extend(start + position for position in in_example)
            example_index[name].extend([number] * len(in_example))
    return _tensors(positions, device), _tensors(example_index, device)


def _tensors(numbers: Mapping[str, list[int]], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.long).to(device) for name, values in numbers.items()}


def run_pass(model: Any, batches: Sequence[Batch], layers: Layers) -> HiddenStates:
    """Run the body of a causal language model and return its states at the batches' positions.

    The caller sets adapter, mode and gradient. A hook takes the states of a block as the block ends, so no others are
    kept. No logits are computed: see `rebend.models.log_probs`. Raises `ConfigError` for index 0, the embeddings, which
    no training changes.
    """
    taken: Taken = {name: {index: [] for index in indices} for name, indices in layers.items()}
    for batch in batches:
        with _block_hooks(model, batch, taken):
            body = getattr(model, model.base_model_prefix)
            extra = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
            if batch.attention_mask is not None:
                extra["attention_mask"] = batch.attention_mask
            final = body(input_ids=batch.tokens, use_cache=False, **extra).last_hidden_state
        _take(final, model.config.num_hidden_layers, batch, taken)
    states = {name: [torch.cat(taken[name][index]) for index in indices] for name, indices in layers.items()}
    example_index = {name: torch.cat([batch.example_index[name] for batch in batches]) for name in layers}
    return HiddenStates(states, example_index)


@torch.no_grad()
def keeps_packed_texts_apart(model: Any) -> bool:
    """Return whether two texts in one packed row have the same states as each text alone."""
    texts = [Example(tokens, {"all": range(len(tokens))}) for tokens in (range(1, 8), range(3, 14))]
    layers = {"all": [model.config.num_hidden_layers]}
    packed, alone = (run_pass(model, make_batches(texts, model.device, packed=p), layers) for p in (True, False))
    difference = (packed.ordered("all")[0] - alone.ordered("all")[0]).float().abs().max()
    return bool(difference <= 0.05 * alone.last("all").float().abs().max())


@contextmanager
def _block_hooks(model: Any, batch: Batch, taken: Taken) -> Iterator[None]:
    """Inside the block, hooks take the outputs of the decoder blocks whose index `taken` has."""
    blocks = decoder_blocks(model)

    def hook_of(index: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            _take(output[0] if isinstance(output, tuple) else output, index, batch, taken)

        return hook

    layers = {index: layer_of(index, len(blocks)) for indices in taken.values() for index in indices}
    handles = [blocks[layer].register_forward_hook(hook_of(index)) for index, layer in layers.items() if layer != FINAL]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _take(states: Tensor, index: int, batch: Batch, taken: Taken) -> None:
    """Keep the states `[B, T, D]` of one index at the positions of every name that has this index."""
    for name, by_index in taken.items():
        if index in by_index:
            by_index[index].append(states.flatten(0, 1).index_select(0, batch.positions[name]))
