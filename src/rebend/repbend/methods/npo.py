"""NPO, negative preference optimisation, with the retain loss (arXiv:2404.05868, equation 3, "NPO+RT").

    loss = mean -2/β · log σ(-β · (log p_adapted - log p_reference)) + w · negative log-likelihood

The first mean is over whole unsafe answers; the likelihood is of the tokens of safe answers and retain chats.
"""

from __future__ import annotations

from peft import PeftModel
from torch import Tensor
from torch.nn.functional import logsigmoid

from rebend.config.adapters import NpoBlock
from rebend.repbend.examples import StepExamples
from rebend.repbend.methods.likelihood import (
    answer_examples,
    answer_log_probs,
    chat_examples,
    final_layers,
    log_probs_at,
    negative_log_likelihood,
)
from rebend.repbend.methods.terms import TwoTerms, at_least_float32, mean
from rebend.repbend.objective import Loss, Objective, StepInfo, run_passes


class Npo(Objective[NpoBlock]):
    """Make unsafe answers less likely, relative to the reference."""

    trains_end_of_turn = True

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group from log-probabilities of whole answers under both models."""
        texts = [
            *answer_examples(step_examples.all_unsafe()),
            *answer_examples(step_examples.all_safe(), "retain"),
            *chat_examples(step_examples.retain),
        ]
        passes = run_passes(
            model, texts, final_layers(self.n_layers, "answer", "retain"), final_layers(self.n_layers, "answer")
        )
        retain = log_probs_at(passes, passes.adapted, texts, "retain")
        adapted, reference = (answer_log_probs(passes, states, texts) for states in (passes.adapted, passes.reference))
        return npo(adapted, reference, retain, self.settings.npo_beta, self.settings.retain_weight).loss()


def npo(
    adapted_unsafe: Tensor, reference_unsafe: Tensor, retain_tokens: Tensor, beta: float, retain_weight: float
) -> TwoTerms:
    """Loss and terms from log-probabilities: of whole unsafe answers `[R]`, and of retain tokens `[N]`.

    `change` enters with plus. It is -2/β · log σ(-β · (adapted - reference)), mean over
    answers: never below 0, and 2/β · log 2 while the model equals the reference. `retain`: `negative_log_likelihood`.
    """
    ratios = at_least_float32(adapted_unsafe) - at_least_float32(reference_unsafe)
    change = mean(-2 / beta * logsigmoid(-beta * ratios))
    retain = negative_log_likelihood(retain_tokens)
    return TwoTerms(change, retain, change + retain_weight * retain)
