"""RMU, representation misdirection for unlearning (arXiv:2403.03218, section 4).

    loss = mean ‖adapted_unsafe - c · u‖² + α · mean ‖adapted_retain - reference_retain‖²

u is a random direction that stays the same during a training. States are of one layer, at all tokens of the unsafe
answers and their prompts, and of the retain texts (safe answers and retain chats).
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor

from rebend.config.adapters import RmuBlock
from rebend.models.layers import target_indices
from rebend.repbend.examples import StepExamples, TrainingExamples
from rebend.repbend.methods.terms import TwoTerms, at_least_float32, mean, whole_texts
from rebend.repbend.objective import Loss, Objective, StepInfo, run_passes


class Rmu(Objective[RmuBlock]):
    """Move unsafe states to one random vector at one layer; keep retain states at that layer."""

    def __init__(self, settings: RmuBlock, examples: TrainingExamples, n_layers: int) -> None:
        """Raise `ConfigError` for a target layer that the model does not have."""
        super().__init__(settings, examples, n_layers)
        target_indices(settings.target_layer, 1, n_layers)

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group; the random vector depends on the seed only."""
        settings, layer = self.settings, [self.settings.target_layer]
        retain = [*step_examples.all_safe(), *step_examples.retain]
        skipped = self.settings.skip_tokens
        texts = [*whole_texts("unsafe", step_examples.all_unsafe(), skipped), *whole_texts("retain", retain, skipped)]
        passes = run_passes(model, texts, {"unsafe": layer, "retain": layer}, {"retain": layer})
        unsafe, retained = passes.adapted.last("unsafe"), passes.adapted.last("retain")
        target = steering_vector(unsafe.shape[1], settings.steering, settings.seed)
        return rmu(unsafe, target, retained, passes.reference.last("retain"), settings.retain_weight).loss()


def steering_vector(size: int, steering: float, seed: int) -> Tensor:
    """Return c · u, `[D]` float32, with length `steering`.

    Entries are drawn uniformly from [0, 1) before the vector is scaled, as in the paper and its released code. So all
    entries are positive, and any two such directions are close to each other.
    """
    entries = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return entries / entries.norm() * steering


def rmu(
    adapted_unsafe: Tensor,
    target: Tensor,
    adapted_retain: Tensor,
    reference_retain: Tensor,
    retain_weight: float,
) -> TwoTerms:
    """Loss and terms (section 4: forget and retain loss) from states `[N, D]` of one layer.

    `target` is `steering_vector`. `change` enters with plus. It is the squared Euclidean
    length of (state - target), mean over the tokens of all unsafe texts together (prompt and response; the paper takes
    the mean within a text first). `retain` enters with plus. It is the squared length of
    (adapted - reference), mean over the tokens of all retain texts together. The released code also divides both by D,
    which scales the loss and does not change AdamW's steps.
    """
    change = mean((at_least_float32(adapted_unsafe) - target.to(adapted_unsafe.device)).square().sum(-1))
    retain = mean((at_least_float32(adapted_retain) - at_least_float32(reference_retain)).square().sum(-1))
    return TwoTerms(change, retain, change + retain_weight * retain)
