"""WHP, "Who's Harry Potter" (arXiv:2310.02238, section 2.2), as RepBend's released code computes it.

    generic = base - α · relu(reinforced - base)          (logits after each token of an unsafe answer)
    loss = mean -log p_adapted(argmax generic) + w · negative log-likelihood

The reinforced model is the base with an adapter that was trained on unsafe answers: what it prefers is what has to be
forgotten. The first mean is over the tokens of unsafe answers, of which the texts stay as they are, and only the tokens
to predict are replaced. The likelihood is of the tokens of safe answers and retain chats. The method's paper also
replaces names by generic ones, which RepBend's baseline leaves out.
"""

from __future__ import annotations

from peft import PeftModel
from torch import Tensor

from rebend.config.adapters import WhpBlock
from rebend.models.log_probs import likeliest_tokens, token_logps
from rebend.repbend.examples import StepExamples
from rebend.repbend.methods.likelihood import (
    answer_examples,
    chat_examples,
    final_layers,
    log_probs_at,
    negative_log_likelihood,
)
from rebend.repbend.methods.terms import TwoTerms
from rebend.repbend.objective import Loss, Objective, StepInfo, run_passes, run_reinforced_pass


class Whp(Objective[WhpBlock]):
    """Make the tokens of a model that does not know unsafe answers likely, in their place."""

    trains_end_of_turn = True

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group, from passes of the base, of the reinforced and of the adapted model."""
        weight = self.settings.retain_weight
        safe = [*answer_examples(step_examples.all_safe(), "retain"), *chat_examples(step_examples.retain)]
        texts = [*answer_examples(step_examples.all_unsafe()), *(safe if weight else [])]
        read = final_layers(self.n_layers, "answer")
        names = ["answer", *(["retain"] if weight else [])]
        reinforced = run_reinforced_pass(model, texts, read)
        passes = run_passes(model, texts, final_layers(self.n_layers, *names), read)
        states = [side.ordered("answer")[0] for side in (passes.reference, reinforced)]
        alpha = self.settings.whp_alpha
        targets = likeliest_tokens(passes.causal, states, lambda logits: generic_logits(logits[0], logits[1], alpha))
        answer = token_logps(passes.causal, passes.adapted.ordered("answer")[0], targets)
        retain = log_probs_at(passes, passes.adapted, texts, "retain") if weight else answer.new_zeros(0)
        return whp(answer, retain, weight).loss()


def generic_logits(base: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Return the logits `[N, V]` without what the reinforced model adds, from those of both models."""
    return base - alpha * (reinforced - base).relu()


def whp(target_tokens: Tensor, retain_tokens: Tensor, retain_weight: float) -> TwoTerms:
    """Loss and terms from log-probabilities: of replacing tokens `[N]` and of retain tokens `[M]`, both with plus."""
    change, retain = negative_log_likelihood(target_tokens), negative_log_likelihood(retain_tokens)
    return TwoTerms(change, retain, change + retain_weight * retain)
