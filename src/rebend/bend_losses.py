"""The four terms of RepBend's loss (arXiv:2504.01550, Algorithm 1), each a function of ragged data.

Ragged: states come as `[N, D]`, the N target tokens of all rows of a group one after the other. There is no
padding in them and so nothing that a mask could forget. "Adapted" is the model with its adapter, "reference"
the same model without it. Terms are returned without weight and without sign; `bend_loss` puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize


class Terms(NamedTuple):
    """The four terms of one step, scalars."""

    keep: Tensor
    push: Tensor
    gather: Tensor
    hold: Tensor


class Weights(NamedTuple):
    """Their weights, under the released code's names (paper: 1/2, alpha, beta, gamma)."""

    alpha: float
    beta: float
    gamma: float
    epsilon: float


def bend_loss(terms: Terms, weights: Weights) -> Tensor:
    """Return the loss: safe states are kept (+), unsafe ones pushed (-), gathered (+), retain chats held (+)."""
    return (
        weights.alpha * terms.keep
        - weights.beta * terms.push
        + weights.gamma * terms.gather
        + weights.epsilon * terms.hold
    )


def keep_safe(adapted: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """How far the states of safe rows have moved: the paper's ||v_s||.

    Enters the loss with plus: moving costs. Mean of the Euclidean length of (adapted - reference) over all
    target tokens of all safe rows together (long answers weigh more, as published) and over the layers given,
    one `[N, D]` each.
    """
    return _lengths(adapted, reference).mean()


def push_unsafe(adapted: Sequence[Tensor], reference: Sequence[Tensor], limit: float | None = None) -> Tensor:
    """How far the states of unsafe rows have moved: the paper's ||v_u||.

    Enters the loss with minus: moving pays. Averaged as `keep_safe`. The published term has no upper bound;
    with `limit`, a token that has moved so far counts as `limit` and is pushed no further.
    """
    lengths = _lengths(adapted, reference)
    return (lengths if limit is None else lengths.clamp(max=limit)).mean()


def gather_unsafe(adapted: Sequence[Tensor]) -> Tensor:
    """How different the directions of unsafe rows are from one another: the cosine term over A_u.

    Enters the loss with plus: differing costs, so that unsafe rows are pulled into one direction. Per layer,
    mean of 1 - cos over the ordered pairs of different rows; then mean over layers. `adapted` has one `[B, D]`
    per layer: the adapted state at the last prompt token of each unsafe row (as released; the paper's
    algorithm has the states of the whole rows). With a single row there is no pair and the term is 0.
    """
    n_rows = adapted[0].shape[0]
    if n_rows < 2:
        return adapted[0].sum() * 0.0
    pairs = n_rows * (n_rows - 1)
    per_layer = []
    for states in adapted:
        directions = normalize(_wide(states), dim=-1)
        cosines = directions @ directions.T
        per_layer.append(1 - (cosines.sum() - cosines.diagonal().sum()) / pairs)
    return torch.stack(per_layer).mean()


def hold_retain(
    adapted: Sequence[Tensor],
    reference: Sequence[Tensor],
    n_chats: int,
    temperature: float = 2.0,
    reduction: Literal["sequence", "token"] = "sequence",
) -> Tensor:
    """How far the next-token distributions on retain chats have moved: KL(reference || adapted).

    Enters the loss with plus: moving costs. Logits come in parts, `[N, V]` each, of real tokens only, all turns
    of the chat. Both are divided by `temperature`, and the KL is multiplied by its square so that gradients
    keep their size. Summed over the vocabulary and then
    * `sequence`: summed over tokens and divided by `n_chats` (as published: the weight grows with the length;
      the logits that it sets to 0 on padding make equal distributions and add nothing), or
    * `token`: averaged over tokens.
    """
    total = torch.stack(
        [
            kl_div(
                log_softmax(_wide(new) / temperature, dim=-1),
                log_softmax(_wide(old) / temperature, dim=-1),
                reduction="sum",
                log_target=True,
            )
            for new, old in zip(adapted, reference, strict=True)
        ]
    ).sum()
    n = n_chats if reduction == "sequence" else sum(part.shape[0] for part in adapted)
    return temperature**2 * total / n


def length(vectors: Tensor) -> Tensor:
    """Euclidean length of the last dimension, `[..., D]` to `[...]`, with gradient 0 at exactly zero.

    Before the first step every difference is exactly zero, where the square root has an infinite derivative.
    """
    squares = vectors.square().sum(-1)
    still = squares == 0
    return squares.masked_fill(still, 1.0).sqrt().masked_fill(still, 0.0)


def _lengths(adapted: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Lengths of the differences, one row per layer: `[layers, N]`."""
    moved = [length(_wide(new) - _wide(old)) for new, old in zip(adapted, reference, strict=True)]
    return torch.stack(moved)


def _wide(values: Tensor) -> Tensor:
    """At least float32: the differences are far smaller than the states that they are taken from."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
