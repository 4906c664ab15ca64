"""DPO, direct preference optimisation of the safe answer of each pair over the unsafe one (arXiv:2305.18290, eq. 7).

    loss = mean -log σ(β · (r_safe - r_unsafe)) + w · negative log-likelihood,   r = log p_adapted - log p_reference

The mean is over pairs; the likelihood, which is not in the paper, is of the tokens of retain chats.
"""

from __future__ import annotations

from typing import NamedTuple

from peft import PeftModel
from torch import Tensor
from torch.nn.functional import logsigmoid

from rebend.config.adapters import DpoBlock
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


class Dpo(Objective[DpoBlock]):
    """Make the safe answer of each pair likelier than the unsafe one, relative to the reference."""

    trains_end_of_turn = True

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group; it does not use the single answers."""
        settings = self.settings
        safe, unsafe = (answer_examples([pair[side] for pair in step_examples.pairs]) for side in (0, 1))
        texts = [*safe, *unsafe, *(chat_examples(step_examples.retain) if settings.retain_weight else [])]
        names = ["answer", "retain"] if settings.retain_weight else ["answer"]
        passes = run_passes(model, texts, final_layers(self.n_layers, *names), final_layers(self.n_layers, "answer"))
        no_tokens = passes.reference.last("answer").new_zeros(0)
        retain = log_probs_at(passes, passes.adapted, texts, "retain") if settings.retain_weight else no_tokens
        adapted, reference = (
            PairLogProbs(*answer_log_probs(passes, states, texts).split(len(safe)))
            for states in (passes.adapted, passes.reference)
        )
        return dpo(adapted, reference, retain, settings.dpo_beta, settings.retain_weight).loss()


class PairLogProbs(NamedTuple):
    """Log-probabilities of the two answers to each prompt, summed over tokens: `[P]` each, in one order."""

    safe: Tensor
    unsafe: Tensor


def dpo(
    adapted: PairLogProbs, reference: PairLogProbs, retain_tokens: Tensor, beta: float, retain_weight: float
) -> TwoTerms:
    """Loss and terms from log-probabilities: of the answers of pairs, and of retain tokens `[N]`.

    `change` enters with plus. It is
    -log σ(β · ((adapted - reference) of the safe answer - (adapted - reference) of the unsafe one)), mean over pairs,
    and log 2 while the model equals the reference. `retain`: `negative_log_likelihood`.
    """
    safe = at_least_float32(adapted.safe) - at_least_float32(reference.safe)
    unsafe = at_least_float32(adapted.unsafe) - at_least_float32(reference.unsafe)
    change = mean(-logsigmoid(beta * (safe - unsafe)))
    retain = negative_log_likelihood(retain_tokens)
    return TwoTerms(change, retain, change + retain_weight * retain)
