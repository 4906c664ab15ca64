"""Next-token distributions from final hidden states, in slices of tokens, so that no `[B, T, V]` is in memory.

A slice goes through the model's own code after its body: the head, and scaling or capping of logits. A token's value
depends on its own state only. So the forward pass also computes the value's gradient with respect to that state, and
the backward pass needs no logits. The head must be frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from rebend.models.lockstep import max_over_ranks

SLICE_ELEMENTS = 2**22  # logits of a slice, tokens x vocabulary: 16 MiB in float32

# From logits [n, V] (at least float32) and their slice: values [n] and their gradients [n, V]
Piece = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


def token_kl(model: Any, adapted: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(reference || adapted) of the next-token distributions at each position `[N]`, times `temperature`².

    `adapted` and `reference` are final hidden states `[N, D]`; logits are divided by `temperature`. Only `adapted` gets
    a gradient.
    """

    def piece(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        old = torch.log_softmax(_wide(_logits(model, reference[part])) / temperature, dim=-1)
        new = torch.log_softmax(logits / temperature, dim=-1)
        weights = old.exp()
        values = (weights * (old - new)).sum(-1) * temperature**2
        return values, new.exp_().sub_(weights).mul_(temperature)

    return _by_token(model, adapted, piece)


def token_logps(model: Any, states: Tensor, following: Tensor) -> Tensor:
    """Return the log-probability `[N]` of the token `following[n]` after each final hidden state `[N, D]`."""

    def piece(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        logps = torch.log_softmax(logits, dim=-1)
        chosen = following[part, None]
        values = logps.gather(-1, chosen).squeeze(-1)
        return values, logps.exp_().neg_().scatter_add_(-1, chosen, torch.ones_like(chosen, dtype=logps.dtype))

    return _by_token(model, states, piece)


@torch.no_grad()
def likeliest_tokens(model: Any, states: Sequence[Tensor], combine: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """Return the token `[N]` with the highest combined logit at each position.

    `states` are final hidden states `[N, D]` of several passes; `combine` gets their logits `[n, V]` in the same order,
    at least float32.
    """

    def piece(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        others = [_wide(_logits(model, other[part])) for other in states[1:]]
        return combine([logits, *others]).argmax(-1).to(torch.float64), logits

    return _by_token(model, states[0].detach(), piece).long()


def _by_token(model: Any, states: Tensor, piece: Piece) -> Tensor:
    """Return the values `[N]` of all slices, with gradient to `states`."""
    n_slices = max_over_ranks(ceil(len(states) * model.config.vocab_size / SLICE_ELEMENTS))
    step = ceil(len(states) / n_slices) if n_slices else 1
    values, slopes = [states.new_zeros(0, dtype=_wide(states).dtype)], [states.new_zeros(0, states.shape[1])]
    for number in range(n_slices):
        part = slice(number * step, (number + 1) * step)
        slice_values, slice_slopes = _slice(model, states[part].detach(), part, piece, with_slope=states.requires_grad)
        values.append(slice_values)
        slopes.append(slice_slopes)
    joined = torch.cat(values)
    return _Values.apply(states, joined, torch.cat(slopes)) if states.requires_grad else joined


def _slice(model: Any, states: Tensor, part: slice, piece: Piece, *, with_slope: bool) -> tuple[Tensor, Tensor]:
    """Return the values of one slice and their slopes `[n, D]` with respect to its states."""
    with torch.set_grad_enabled(with_slope):
        states.requires_grad_(with_slope)
        logits = _logits(model, states)
    with torch.no_grad():
        values, gradients = piece(_wide(logits), part)
    slopes = torch.autograd.grad(logits, states, gradients.to(logits.dtype))[0] if with_slope else states
    return values, slopes


class _Values(torch.autograd.Function):
    """Attach known values `[N]` to the graph by their slopes `[N, D]` with respect to the states."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0][:, None].to(slopes.dtype), None, None


def _logits(model: Any, states: Tensor) -> Tensor:
    """Return the logits `[n, V]` of final hidden states `[n, D]`, by the model's own code after its body."""
    with _body_returning(model, states[None]):
        return model(input_ids=torch.zeros(1, len(states), dtype=torch.long, device=states.device)).logits[0]


@contextmanager
def _body_returning(model: Any, states: Tensor) -> Iterator[None]:
    """Inside the block, the model's body returns `states` `[1, n, D]` without computing anything."""
    body = getattr(model, model.base_model_prefix)

    def forward(*args: Any, **kwargs: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=states)

    original = body.__dict__.get("forward")  # normally absent: the method is the class's
    body.forward = forward
    try:
        yield
    finally:
        if original is None:
            del body.forward
        else:
            body.forward = original


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
