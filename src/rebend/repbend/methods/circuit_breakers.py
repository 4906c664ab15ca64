"""Circuit breakers, or representation rerouting (arXiv:2406.04313, Algorithm 1).

    loss = c_s · mean relu(cos(adapted, reference)) + c_r · mean ‖adapted - reference‖

The first mean is over all tokens of the unsafe answers and their prompts, at the target layers. The second is over all
tokens of the retain texts (safe answers and retain chats), at all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import relu

from rebend.config.adapters import CircuitBreakersBlock
from rebend.models.layers import target_indices
from rebend.repbend.examples import StepExamples, TrainingExamples
from rebend.repbend.methods.terms import TwoTerms, at_least_float32, mean, mean_shift_norm, whole_texts
from rebend.repbend.objective import Loss, Objective, StepInfo, run_passes


class CircuitBreakers(Objective[CircuitBreakersBlock]):
    """Rotate unsafe states away from the reference at the target layers; keep retain states at all layers."""

    def __init__(self, settings: CircuitBreakersBlock, examples: TrainingExamples, n_layers: int) -> None:
        """Raise `ConfigError` for target layers that the model does not have."""
        super().__init__(settings, examples, n_layers)
        target_indices(max(settings.target_layers), 1, n_layers)

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group; the weights of its two terms change with the finished steps."""
        layers = {"unsafe": self.settings.target_layers, "retain": list(range(1, self.n_layers + 1))}
        retain = [*step_examples.all_safe(), *step_examples.retain]
        skipped = self.settings.skip_tokens
        texts = [*whole_texts("unsafe", step_examples.all_unsafe(), skipped), *whole_texts("retain", retain, skipped)]
        passes = run_passes(model, texts, layers, layers)
        adapted, reference = passes.adapted.states, passes.reference.states
        schedule = rerouting_schedule(info.step + 1, info.n_steps, self.settings.coefficient)
        # The released code counts the embeddings as a layer.
        return circuit_breakers(
            adapted["unsafe"],
            reference["unsafe"],
            adapted["retain"],
            reference["retain"],
            schedule,
            n_frozen_layers=1,
        ).loss()


class Schedule(NamedTuple):
    """Weights of the two terms at one step."""

    change: float
    retain: float


def rerouting_schedule(step: int, n_steps: int, coefficient: float) -> Schedule:
    """Return the weights at `step` (from 1) of `n_steps` (Algorithm 1, line 3).

    The weight of `change` falls from `coefficient` to half of it; the weight of `retain` rises from 0 to half of it.
    The released code has 300 in place of 2 · n_steps: equal for its 150 steps, different for any other number.
    """
    progress = step / (2 * n_steps)
    return Schedule(change=coefficient * (1 - progress), retain=coefficient * progress)


def circuit_breakers(
    adapted_unsafe: Sequence[Tensor],
    reference_unsafe: Sequence[Tensor],
    adapted_retain: Sequence[Tensor],
    reference_retain: Sequence[Tensor],
    schedule: Schedule,
    n_frozen_layers: int = 0,
) -> TwoTerms:
    """Loss and terms (Algorithm 1, lines 4 to 6) from states `[N, D]` per layer.

    `change` enters with plus. It is the cosine of adapted and reference state, 0
    where negative: mean over the tokens of all unsafe texts together (prompt and response, appendix C.1) and over the
    target layers. `retain` enters with plus. It is `mean_shift_norm` over all tokens of the retain texts
    and all layers. The released code also averages over padding, where both states are 0: its weight then falls with
    the share of padding.

    While adapted and reference are equal, both gradients are 0 in exact arithmetic, because the cosine has its maximum
    there. So training starts from rounding errors, and hardly moves in float64.
    """
    cosines = [relu(_Cosine.apply(new, old)) for new, old in zip(adapted_unsafe, reference_unsafe, strict=True)]
    change = mean(torch.stack(cosines))
    retain = mean_shift_norm(adapted_retain, reference_retain, n_frozen_layers)
    return TwoTerms(change, retain, schedule.change * change + schedule.retain * retain)


class _Cosine(torch.autograd.Function):
    """Cosine of the rows of two `[N, D]`, with gradient to the first; 0 with gradient 0 for a row of zeros.

    The backward pass computes the directions again instead of keeping them for every layer.
    """

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor) -> Tensor:
        ctx.save_for_backward(new, old)
        return (_direction(new) * _direction(old)).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        new, old = ctx.saved_tensors
        new_direction, old_direction = _direction(new), _direction(old)
        tangent = old_direction - (new_direction * old_direction).sum(-1, keepdim=True) * new_direction
        lengths = at_least_float32(new).norm(dim=-1, keepdim=True)
        slopes = torch.where(lengths == 0, 0.0, tangent / lengths)
        return (slopes * gradients[0][:, None]).to(new.dtype), None


def _direction(vectors: Tensor) -> Tensor:
    """Return rows of length 1, float32 or wider; a row of zeros stays zero."""
    lengths = at_least_float32(vectors).norm(dim=-1, keepdim=True)
    return at_least_float32(vectors) / lengths.masked_fill(lengths == 0, 1.0)
