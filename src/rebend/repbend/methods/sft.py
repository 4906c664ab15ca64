"""SFT, supervised fine-tuning on answers and on retain chats.

    loss = negative log-likelihood of answers + w · negative log-likelihood of retain chats

The answers are the safe ones, or, as a part of task arithmetic, the unsafe ones.
"""

from __future__ import annotations

from peft import PeftModel
from torch import Tensor

from rebend.config.adapters import SftBlock
from rebend.repbend.examples import StepExamples
from rebend.repbend.methods.likelihood import (
    answer_examples,
    chat_examples,
    final_layers,
    log_probs_at,
    negative_log_likelihood,
)
from rebend.repbend.methods.terms import TwoTerms
from rebend.repbend.objective import Loss, Objective, StepInfo, run_passes


class Sft(Objective[SftBlock]):
    """Make answers likely."""

    trains_end_of_turn = True

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group; it uses no reference."""
        settings = self.settings
        answers = step_examples.all_safe() if settings.answers == "safe" else step_examples.all_unsafe()
        texts = [*answer_examples(answers), *(chat_examples(step_examples.retain) if settings.retain_weight else [])]
        names = ["answer", "retain"] if settings.retain_weight else ["answer"]
        passes = run_passes(model, texts, final_layers(self.n_layers, *names))
        answer = log_probs_at(passes, passes.adapted, texts, "answer")
        no_tokens = answer.new_zeros(0)
        retain = log_probs_at(passes, passes.adapted, texts, "retain") if settings.retain_weight else no_tokens
        return sft(answer, retain, settings.retain_weight).loss()


def sft(answer_tokens: Tensor, retain_tokens: Tensor, retain_weight: float) -> TwoTerms:
    """Loss and terms from log-probabilities of tokens `[N]`: `negative_log_likelihood` of each, both with plus."""
    change, retain = negative_log_likelihood(answer_tokens), negative_log_likelihood(retain_tokens)
    return TwoTerms(change, retain, change + retain_weight * retain)
