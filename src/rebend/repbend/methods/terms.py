"""The five terms of RepBend's loss (arXiv:2504.01550, Algorithm 1, and the released code), on ragged data.

Ragged: states come as `[N, D]`, the N places of all rows of a group one after the other. There is no padding
in them and so nothing that a mask could forget. "Adapted" is the model with its adapter, "reference" the same
model without it. Terms are returned without weight and without sign; `repbend_loss` puts them together.

Two fidelities. `released_code` has the reductions of the released code, `corrected` cleaner ones:

| term | published | corrected |
|---|---|---|
| keep | mean over tokens and all indices, the embeddings too, which cannot move | without the embeddings |
| push | mean over tokens and target indices | the same |
| gather | cosine of the states at the last prompt token | cosine of the rows' mean states over the target tokens |
| hold | KL at temperature 2, times 4, sum over tokens / number of chats | KL at temperature 1, mean over tokens |
| draw | over R places of each pair, R the shortest answer met so far (at most 20) | R of each pair its own |

The adapted pass has dropout in the adapter as published; `corrected` asks for `lora_dropout: 0.0`, because the
noise of dropout counts as a move away from the reference. Differences are taken in float32 in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

Variant = Literal["released_code", "corrected"]


class Terms(NamedTuple):
    """The five terms, scalars."""

    keep: Tensor
    push: Tensor
    gather: Tensor
    hold: Tensor
    draw: Tensor


class Weights(NamedTuple):
    """Their weights, under the released code's names (paper: 1/2, alpha, beta, gamma, and none)."""

    alpha: float
    beta: float
    gamma: float
    epsilon: float
    eta: float = 0.0


def repbend_loss(terms: Terms, weights: Weights) -> Tensor:
    """Return the loss: safe states are kept (+), unsafe ones pushed (-), gathered (+), retain chats held (+), and
    unsafe answers drawn to the safe ones (+).
    """
    return (
        weights.alpha * terms.keep
        - weights.beta * terms.push
        + weights.gamma * terms.gather
        + weights.epsilon * terms.hold
        + weights.eta * terms.draw
    )


def keep_safe(adapted: Sequence[Tensor], reference: Sequence[Tensor], still: int = 0) -> Tensor:
    """How far the states of safe rows have moved: the paper's ||v_s||.

    Enters the loss with plus: moving costs. Mean of the Euclidean length of (adapted - reference) over all
    target tokens of all safe rows together (long answers weigh more, as published) and over the layers given,
    one `[N, D]` each, and `still` more layers that are counted but cannot move (published: the embeddings).
    """
    return moved(adapted, reference).sum(0).mean() / (len(adapted) + still)


def push_unsafe(adapted: Sequence[Tensor], reference: Sequence[Tensor], limit: float | None = None) -> Tensor:
    """How far the states of unsafe rows have moved: the paper's ||v_u||.

    Enters the loss with minus: moving pays. Averaged as `keep_safe`. The published term has no upper bound;
    with `limit`, a token that has moved so far counts as `limit` and is pushed no further.
    """
    lengths = moved(adapted, reference)
    return (lengths if limit is None else lengths.clamp(max=limit)).mean()


def gather_unsafe(adapted: Sequence[Tensor]) -> Tensor:
    """How different the directions of unsafe rows are from one another: the cosine term over A_u.

    Enters the loss with plus: differing costs, so that unsafe rows are pulled into one direction. Per layer,
    mean of 1 - cos over the ordered pairs of different rows; then mean over layers. `adapted` has one `[B, D]`
    per layer, the adapted state that stands for each unsafe row. With a single row there is no pair and the
    term is 0.
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


def hold_retain(divergences: Tensor, n_chats: int, variant: Variant = "released_code") -> Tensor:
    """How far the next-token distributions on retain chats have moved, from the KL at each token `[N]`.

    Enters the loss with plus: moving costs. `rebend.models.log_probs.token_kl` gives the divergences: KL(reference ||
    adapted) at temperature 2, times 4 (published), or 1 (corrected). All turns of the chat count.
    * published: summed over tokens and divided by the chats, so that the weight grows with their length (the
      logits that the released code sets to 0 on padding make equal distributions and add nothing);
    * corrected: averaged over tokens.
    """
    return divergences.sum() / (n_chats if variant == "released_code" else max(len(divergences), 1))


def draw_unsafe(adapted: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """How far unsafe answers to paired prompts are from where the safe answers were: the released code's fifth term.

    Enters the loss with plus: distance costs. Mean of the Euclidean length of (adapted state of the unsafe
    answer - reference state of the safe answer) over the first places of each pair, from the last prompt token
    on, and over layers: one `[N, D]` each, places of both in the same order.
    """
    return moved(adapted, reference).mean()


def row_means(states: Tensor, owners: Tensor) -> Tensor:
    """Mean state of each row, `[B, D]`, from states `[N, D]` and the row of each, `[N]`."""
    rows, places = owners.unique(return_inverse=True)
    sums = states.new_zeros(len(rows), states.shape[1], dtype=_wide(states).dtype).index_add(0, places, _wide(states))
    return sums / places.bincount(minlength=len(rows))[:, None]


def moved(adapted: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Lengths of the differences, one row per layer: `[layers, N]`."""
    return torch.stack([_Distance.apply(new, old) for new, old in zip(adapted, reference, strict=True)])


class _Distance(torch.autograd.Function):
    """Euclidean distance of the rows of two `[N, D]`, with gradient 0 where they are equal.

    Before the first step every difference is exactly zero, where the square root has an infinite derivative.
    The difference is computed again in the backward pass: keeping it for every layer would take more memory
    than all else that the terms need.
    """

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor) -> Tensor:
        lengths = (_wide(new) - _wide(old)).square().sum(-1).sqrt()
        ctx.save_for_backward(new, old, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        new, old, lengths = ctx.saved_tensors
        scale = torch.where(lengths == 0, 0.0, gradients[0] / lengths)
        return ((_wide(new) - _wide(old)) * scale[:, None]).to(new.dtype), None


def _wide(values: Tensor) -> Tensor:
    """At least float32: the differences are far smaller than the states that they are taken from."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
