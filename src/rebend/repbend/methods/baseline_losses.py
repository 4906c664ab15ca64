"""The losses of the methods that RepBend is compared with, each a function of ragged data.

Ragged as in `rebend.repbend.methods.terms`: states are `[N, D]` per layer, log-probabilities one number per token or per
response, of the tokens that count and no others; there is no padding that a mask could forget. "Adapted" is the
model with its adapter, "reference" the same model without it: it carries no gradient. Log-probabilities are
natural. A mean over nothing is 0, so that a method without retain chats needs no case of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rebend.repbend.methods.terms import keep_safe


class BaselineTerms(NamedTuple):
    """One step's loss and its two parts, scalars; the parts are without weight."""

    change: Tensor  # what the method is for
    retain: Tensor  # what keeps the model as it is elsewhere
    total: Tensor  # what is minimised


class Schedule(NamedTuple):
    """Weights of the two parts at one step."""

    change: float
    retain: float


def rerouting_schedule(step: int, steps: int, coefficient: float) -> Schedule:
    """Weights of circuit breakers at `step`, counted from 1, of `steps` (arXiv:2406.04313, Algorithm 1, line 3).

    Turning away goes from `coefficient` down to half of it, keeping from 0 up to half of it. The released code
    has 300 in place of 2 · steps: the same at its 150 steps, another course at any other number.
    """
    progress = step / (2 * steps)
    return Schedule(change=coefficient * (1 - progress), retain=coefficient * progress)


def circuit_breakers(
    adapted_unsafe: Sequence[Tensor],
    reference_unsafe: Sequence[Tensor],
    adapted_retain: Sequence[Tensor],
    reference_retain: Sequence[Tensor],
    schedule: Schedule,
    still: int = 0,
) -> BaselineTerms:
    """Circuit breakers, or representation rerouting (arXiv:2406.04313, Algorithm 1, lines 4 to 6).

    `change` enters with plus, agreeing with the reference costs: the cosine of adapted and reference state, 0
    where it is negative; mean over the tokens of all unsafe rows together (prompt and response, appendix C.1)
    and over the target layers. `retain` enters with plus, moving costs: see `keep_safe`, here over all tokens of
    the retain rows and all layers, `still` (released code: 1) of which are counted but cannot move. The released
    code averages it over padding too, where both states are 0: there its weight falls with the share of padding.
    While adapted and reference are equal, both gradients are 0 in exact arithmetic, as a cosine has its maximum
    there: training starts from rounding errors, in float64 hardly at all.
    """
    agreement = [relu(_Cosine.apply(new, old)) for new, old in zip(adapted_unsafe, reference_unsafe, strict=True)]
    change, retain = _mean(torch.stack(agreement)), keep_safe(adapted_retain, reference_retain, still)
    return BaselineTerms(change, retain, schedule.change * change + schedule.retain * retain)


def steering_vector(size: int, steering: float, seed: int) -> Tensor:
    """RMU's c · u, `[D]` float32: of length `steering`, in a random direction that a training keeps.

    Entries are drawn uniformly from [0, 1) before the vector is scaled (arXiv:2403.03218, section 4, and its
    released code), so that all are positive: any two such directions are near to one another.
    """
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm() * steering


def rmu(
    adapted_unsafe: Tensor,
    target: Tensor,
    adapted_retain: Tensor,
    reference_retain: Tensor,
    retain_weight: float,
) -> BaselineTerms:
    """RMU, representation misdirection for unlearning (arXiv:2403.03218, section 4: forget and retain loss).

    States `[N, D]` are of one layer; `target` is `steering_vector`. `change` enters with plus, being far from
    `target` costs: squared Euclidean length of state - target, mean over the tokens of all unsafe rows together
    (prompt and response; the paper takes the mean within a row first). `retain` enters with plus, moving costs:
    squared length of adapted - reference, mean over all tokens of the retain rows together.
    The released code divides both by D as well, which scales the loss and leaves AdamW's steps as they are.
    """
    change = _mean((_wide(adapted_unsafe) - target.to(adapted_unsafe.device)).square().sum(-1))
    retain = _mean((_wide(adapted_retain) - _wide(reference_retain)).square().sum(-1))
    return BaselineTerms(change, retain, change + retain_weight * retain)


def npo(
    adapted_unsafe: Tensor, reference_unsafe: Tensor, retain_tokens: Tensor, beta: float, retain_weight: float
) -> BaselineTerms:
    """Negative preference optimisation with the retain loss added (arXiv:2404.05868, equation 3, "NPO+RT").

    `adapted_unsafe` and `reference_unsafe` `[R]` are log-probabilities of whole unsafe responses, summed over
    tokens. `change` enters with plus, a likely unsafe response costs: -2/β · log σ(-β · (adapted - reference)),
    mean over responses. It is never below 0, and 2/β · log 2 while the model is the reference. `retain`: see
    `negative_log_likelihood`.
    """
    change = _mean(-2 / beta * logsigmoid(-beta * (_wide(adapted_unsafe) - _wide(reference_unsafe))))
    retain = negative_log_likelihood(retain_tokens)
    return BaselineTerms(change, retain, change + retain_weight * retain)


class PairLogps(NamedTuple):
    """Log-probabilities of the two responses to each prompt, summed over tokens: `[P]` each, in one order."""

    safe: Tensor
    unsafe: Tensor


def dpo(
    adapted: PairLogps, reference: PairLogps, retain_tokens: Tensor, beta: float, retain_weight: float
) -> BaselineTerms:
    """Direct preference optimisation of the safe response over the unsafe one (arXiv:2305.18290, equation 7).

    `change` enters with plus, a lead of the unsafe response costs: -log σ(β · ((adapted - reference) of the safe
    response - (adapted - reference) of the unsafe one)), mean over pairs. It is log 2 while the model is the
    reference. `retain`, which is not in the paper: see `negative_log_likelihood`.
    """
    safe = _wide(adapted.safe) - _wide(reference.safe)
    unsafe = _wide(adapted.unsafe) - _wide(reference.unsafe)
    change = _mean(-logsigmoid(beta * (safe - unsafe)))
    retain = negative_log_likelihood(retain_tokens)
    return BaselineTerms(change, retain, change + retain_weight * retain)


def sft(response_tokens: Tensor, retain_tokens: Tensor, retain_weight: float) -> BaselineTerms:
    """Supervised fine-tuning on responses, and on retain chats: `negative_log_likelihood` of either, both with plus.

    Safe responses for the method of that name; for task arithmetic safe ones or unsafe ones.
    """
    change, retain = negative_log_likelihood(response_tokens), negative_log_likelihood(retain_tokens)
    return BaselineTerms(change, retain, change + retain_weight * retain)


def negative_log_likelihood(token_logps: Tensor) -> Tensor:
    """Return minus the mean of log-probabilities of tokens `[N]`: an unlikely token costs.

    Mean over the tokens of all rows together, so that a long row weighs more, as transformers' own loss has it.
    """
    return _mean(-_wide(token_logps))


def segment_sum(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Sum `values` `[N]` of tokens per row: `[n_rows]`, at least float32; `rows` `[N]` says whose a token is.

    A row without tokens has 0, the log-probability of an empty response.
    """
    values = _wide(values)
    return values.new_zeros(n_rows).index_add(0, rows, values)


class _Cosine(torch.autograd.Function):
    """Cosine of the rows of two `[N, D]`, with gradient to the first; 0 with gradient 0 where a row is exactly zero.

    Directions are computed again in the backward pass instead of being kept for every layer.
    """

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor) -> Tensor:
        ctx.save_for_backward(new, old)
        return (_direction(new) * _direction(old)).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        new, old = ctx.saved_tensors
        here, there = _direction(new), _direction(old)
        across = there - (here * there).sum(-1, keepdim=True) * here
        lengths = _wide(new).norm(dim=-1, keepdim=True)
        slopes = torch.where(lengths == 0, 0.0, across / lengths)
        return (slopes * gradients[0][:, None]).to(new.dtype), None


def _direction(vectors: Tensor) -> Tensor:
    """Rows of length 1, at least float32; a row of zeros stays one."""
    lengths = _wide(vectors).norm(dim=-1, keepdim=True)
    return _wide(vectors) / lengths.masked_fill(lengths == 0, 1.0)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)


def _wide(values: Tensor) -> Tensor:
    """At least float32: the differences are far smaller than the values that they are taken from."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
