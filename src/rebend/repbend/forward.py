"""Batches without padding worth naming, and where in them a loss looks.

A loss looks at named places: `Probe` is a text with, under each name, the positions of its tokens at which
hidden states (or next-token distributions) are wanted. Real tokens of a causal model never see what is to
their right, so rows of about one length are padded on the right and need no attention mask; or all rows lie
one behind the other in a single packed row, where the model's attention keeps them apart by their positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebend.models.layers import decoder_blocks
from rebend.models.lockstep import most

MAX_PADDING = 0.08  # share of a batch that may be padding; less makes more and smaller batches


@dataclass(frozen=True)
class Probe:
    """Tokens of one text, and the positions that are looked at, by name."""

    tokens: Sequence[int]
    places: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """Some probes as one input; places are positions in the flattened `[B * T]`, and never padding."""

    tokens: Tensor  # [B, T]
    positions: Tensor | None  # [B, T]: from 0 in each text of a packed row; None where each row is one text
    places: Mapping[str, Tensor]
    owners: Mapping[str, Tensor]  # for each place, the number of its probe


def make_batches(probes: Sequence[Probe], device: torch.device, *, packed: bool = False) -> list[Batch]:
    """Sort probes by length and cut them into batches of which at most `MAX_PADDING` is padding; or pack all."""
    names = list(dict.fromkeys(name for probe in probes for name in probe.places))
    if packed:
        return [_packed(list(enumerate(probes)), names, device)]
    order = sorted(enumerate(probes), key=lambda one: -len(one[1].tokens))
    parts: list[list[tuple[int, Probe]]] = []
    real = 0
    for number, probe in order:
        real += len(probe.tokens)
        if parts and real >= (1 - MAX_PADDING) * len(parts[-1][0][1].tokens) * (len(parts[-1]) + 1):
            parts[-1].append((number, probe))
        else:
            parts.append([(number, probe)])
            real = len(probe.tokens)
    nothing = Batch(torch.zeros(1, 1, dtype=torch.long, device=device), None, *_where([], [], names, device))
    return [_padded(part, names, device) for part in parts] + [nothing] * (most(len(parts)) - len(parts))


def _padded(numbered: Sequence[tuple[int, Probe]], names: Sequence[str], device: torch.device) -> Batch:
    longest = max(len(probe.tokens) for _, probe in numbered)
    tokens = torch.zeros(len(numbered), longest, dtype=torch.long)  # any token does as padding: nobody looks at it
    for line, (_, probe) in enumerate(numbered):
        tokens[line, : len(probe.tokens)] = torch.tensor(probe.tokens)
    starts = [line * longest for line in range(len(numbered))]
    return Batch(tokens.to(device), None, *_where(numbered, starts, names, device))


def _packed(numbered: Sequence[tuple[int, Probe]], names: Sequence[str], device: torch.device) -> Batch:
    lengths = [len(probe.tokens) for _, probe in numbered]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    tokens = torch.tensor([[token for _, probe in numbered for token in probe.tokens]])
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return Batch(tokens.to(device), positions.to(device), *_where(numbered, starts, names, device))


def _where(
    numbered: Sequence[tuple[int, Probe]], starts: Sequence[int], names: Sequence[str], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Places and owners of each name."""
    places: dict[str, list[int]] = {name: [] for name in names}
    owners: dict[str, list[int]] = {name: [] for name in names}
    for start, (number, probe) in zip(starts, numbered, strict=True):
        for name, positions in probe.places.items():
            places[name].extend(start + position for position in positions)
            owners[name].extend([number] * len(positions))
    return _tensors(places, device), _tensors(owners, device)


def _tensors(numbers: Mapping[str, list[int]], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.tensor(found, dtype=torch.long).to(device) for name, found in numbers.items()}


Wanted = Mapping[str, Sequence[int]]  # name of places -> indices into hidden_states


@dataclass(frozen=True)
class Seen:
    """What one pass has shown: for each name, a tensor `[N, D]` per wanted index; places in the order of batches."""

    states: dict[str, list[Tensor]]
    owners: dict[str, Tensor]  # [N]: the probe that a place belongs to

    def last(self, name: str) -> Tensor:
        """States `[N, D]` of the last index wanted under a name."""
        return self.states[name][-1]

    def ordered(self, name: str) -> list[Tensor]:
        """States of a name with the places in the order of the probes, not of the batches."""
        order = self.owners[name].argsort(stable=True)
        return [states.index_select(0, order) for states in self.states[name]]


def run_pass(model: Any, batches: Sequence[Batch], wanted: Wanted) -> Seen:
    """Run the body of a causal language model, as it is now (adapter, mode and gradient are the caller's).

    States are taken as each block ends, so that nothing else is kept of it. No logits are computed: see
    `rebend.models.log_probs`. Index 0, the embeddings, cannot be asked for: nothing that is trained changes them.
    """
    found: dict[str, dict[int, list[Tensor]]] = {name: {i: [] for i in indices} for name, indices in wanted.items()}
    for batch in batches:
        with _taps(model, batch, found):
            body = getattr(model, model.base_model_prefix)
            extra = {} if batch.positions is None else {"position_ids": batch.positions}
            final = body(input_ids=batch.tokens, use_cache=False, **extra).last_hidden_state
        _take(final, model.config.num_hidden_layers, batch, found)
    states = {name: [torch.cat(found[name][index]) for index in indices] for name, indices in wanted.items()}
    owners = {name: torch.cat([batch.owners[name] for batch in batches]) for name in wanted}
    return Seen(states, owners)


@torch.no_grad()
def keeps_packed_texts_apart(model: Any) -> bool:
    """Tell whether two texts in one packed row have the states that each has alone."""
    texts = [Probe(tokens, {"all": range(len(tokens))}) for tokens in (range(1, 8), range(3, 14))]
    wanted = {"all": [model.config.num_hidden_layers]}
    packed, alone = (run_pass(model, make_batches(texts, model.device, packed=p), wanted) for p in (True, False))
    difference = (packed.ordered("all")[0] - alone.ordered("all")[0]).float().abs().max()
    return bool(difference <= 0.05 * alone.last("all").float().abs().max())


@contextmanager
def _taps(model: Any, batch: Batch, found: dict[str, dict[int, list[Tensor]]]) -> Iterator[None]:
    """Inside the block, the output of decoder block i - 1 is taken as `hidden_states[i]`."""
    blocks = decoder_blocks(model)
    inner = {index for indices in found.values() for index in indices if index < len(blocks)}

    def tap(index: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            _take(output[0] if isinstance(output, tuple) else output, index, batch, found)

        return hook

    handles = [blocks[index - 1].register_forward_hook(tap(index)) for index in sorted(inner)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _take(states: Tensor, index: int, batch: Batch, found: dict[str, dict[int, list[Tensor]]]) -> None:
    """Keep the states `[B, T, D]` of one index at the places of every name that wants it."""
    for name, by_index in found.items():
        if index in by_index:
            by_index[index].append(states.flatten(0, 1).index_select(0, batch.places[name]))
