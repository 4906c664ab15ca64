"""What the losses of several methods share: lengths of moved hidden states, and losses of two terms.

Tensors are ragged: states come as `[N, D]` per layer, the N positions of all examples of a group one after the other.
They hold no padding, so no mask is needed. "Adapted" is the model with its adapter; "reference" is the same model
without it and carries no gradient. Differences are taken in float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rebend.repbend.examples import TrainingExample
from rebend.repbend.forward import Example
from rebend.repbend.objective import Loss


class TwoTerms(NamedTuple):
    """Loss of one step and its two terms, scalars. The terms are without weight."""

    change: Tensor  # the purpose of the method
    retain: Tensor  # keeps the model's other behaviour
    total: Tensor  # the minimised loss

    def loss(self) -> Loss:
        """Return total and terms as the loss of an objective."""
        return Loss(self.total, {"change": self.change, "retain": self.retain})


def whole_texts(name: str, examples: Sequence[TrainingExample], skipped: int = 0) -> list[Example]:
    """Return the texts with all their positions under one name, without the first `skipped` of each."""
    return [Example(example.tokens, {name: range(skipped, len(example.tokens))}) for example in examples]


def mean_shift_norm(adapted: Sequence[Tensor], reference: Sequence[Tensor], n_frozen_layers: int = 0) -> Tensor:
    """Mean Euclidean length of (adapted - reference), a scalar.

    Averaged over the positions of all examples together (a long answer weighs more) and over layers: those given, one
    `[N, D]` each, and `n_frozen_layers` more that count as 0 because training cannot change them.
    """
    return shift_norms(adapted, reference).sum(0).mean() / (len(adapted) + n_frozen_layers)


def shift_norms(adapted: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Euclidean lengths of (adapted - reference), `[layers, N]`."""
    return torch.stack([_Distance.apply(new, old) for new, old in zip(adapted, reference, strict=True)])


def mean(values: Tensor) -> Tensor:
    """Mean of all values; 0 for no values, so that a method without retain chats needs no special case."""
    return values.sum() / max(values.numel(), 1)


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32 or wider: differences are far smaller than the values themselves."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Distance(torch.autograd.Function):
    """Euclidean distance of the rows of two `[N, D]`, with gradient 0 where they are equal.

    Before the first step every difference is exactly zero, where the square root has an infinite derivative. The
    backward pass computes the difference again: keeping it for every layer would take more memory than all other
    tensors of the terms.
    """

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor) -> Tensor:
        lengths = (at_least_float32(new) - at_least_float32(old)).square().sum(-1).sqrt()
        ctx.save_for_backward(new, old, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        new, old, lengths = ctx.saved_tensors
        scale = torch.where(lengths == 0, 0.0, gradients[0] / lengths)
        return ((at_least_float32(new) - at_least_float32(old)) * scale[:, None]).to(new.dtype), None
