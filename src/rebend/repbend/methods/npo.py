"""NPO, negative preference optimisation, with the retain loss (arXiv:2404.05868, equation 3, "NPO+RT").

    loss = mean -2/β · log σ(-β · (log p_adapted - log p_reference)) + w · negative log-likelihood + k · KL

The first mean is over whole unsafe answers; the likelihood is of the tokens of safe answers and retain chats. The KL is
that of RepBend's released script, not of a paper (k is 0 by default): KL(reference || adapted) of the next token at
temperature 2, times 4, mean over the tokens of safe answers and retain chats. A token's own state is read, while the
likelihood reads the state before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from peft import PeftModel
from torch import Tensor
from torch.nn.functional import logsigmoid

from rebend.config.adapters import NpoBlock
from rebend.models.log_probs import token_kl
from rebend.repbend.examples import StepExamples, TrainingExample
from rebend.repbend.forward import Example
from rebend.repbend.methods.likelihood import (
    answer_examples,
    answer_log_probs,
    final_layers,
    log_probs_at,
    negative_log_likelihood,
)
from rebend.repbend.methods.terms import at_least_float32, mean
from rebend.repbend.objective import Loss, Objective, StepInfo, run_passes

_KL_TEMPERATURE = 2.0


class NpoTerms(NamedTuple):
    """Loss of one step and its terms, scalars. The terms are without weight."""

    change: Tensor
    retain: Tensor
    retain_kl: Tensor
    total: Tensor

    def loss(self) -> Loss:
        """Return total and terms as the loss of an objective."""
        return Loss(self.total, {"change": self.change, "retain": self.retain, "retain_kl": self.retain_kl})


class Npo(Objective[NpoBlock]):
    """Make unsafe answers less likely, relative to the reference."""

    trains_end_of_turn = True
    term_names: ClassVar[tuple[str, ...]] = ("change", "retain", "retain_kl")

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group from log-probabilities of whole answers under both models."""
        settings, names = self.settings, ["answer", *(["kl"] if self.settings.kl_weight else [])]
        texts = [
            *answer_examples(step_examples.all_unsafe()),
            *retain_examples([*step_examples.all_safe(), *step_examples.retain]),
        ]
        passes = run_passes(
            model, texts, final_layers(self.n_layers, "retain", *names), final_layers(self.n_layers, *names)
        )
        retain = log_probs_at(passes, passes.adapted, texts, "retain")
        adapted, reference = (answer_log_probs(passes, states, texts) for states in (passes.adapted, passes.reference))
        divergences = retain.new_zeros(0)
        if settings.kl_weight:
            states = passes.adapted.last("kl"), passes.reference.last("kl")
            divergences = token_kl(passes.causal, *states, _KL_TEMPERATURE)
        weights = settings.retain_weight, settings.kl_weight
        return npo(adapted, reference, retain, settings.npo_beta, *weights, divergences=divergences).loss()


def retain_examples(rows: Sequence[TrainingExample]) -> list[Example]:
    """Return safe answers and chats with two kinds of positions of their tokens (of all tokens of a chat).

    `retain` are the positions before the tokens, and `kl` those of the tokens themselves.
    """
    return [
        Example(
            row.tokens,
            {
                "retain": range(max(row.n_prompt, 1) - 1, len(row.tokens) - 1),
                "kl": range(row.n_prompt, len(row.tokens)),
            },
        )
        for row in rows
    ]


def npo(
    adapted_unsafe: Tensor,
    reference_unsafe: Tensor,
    retain_tokens: Tensor,
    beta: float,
    retain_weight: float,
    kl_weight: float = 0.0,
    divergences: Tensor | None = None,
) -> NpoTerms:
    """Loss and terms from log-probabilities: of whole unsafe answers `[R]`, and of retain tokens `[N]`.

    `change` enters with plus. It is -2/β · log σ(-β · (adapted - reference)), mean over
    answers: never below 0, and 2/β · log 2 while the model equals the reference. `retain`: `negative_log_likelihood`.
    `divergences` `[M]` are those of the KL at each token.
    """
    ratios = at_least_float32(adapted_unsafe) - at_least_float32(reference_unsafe)
    change = mean(-2 / beta * logsigmoid(-beta * ratios))
    retain = negative_log_likelihood(retain_tokens)
    kl = change.new_zeros(()) if divergences is None else mean(at_least_float32(divergences))
    return NpoTerms(change, retain, kl, change + retain_weight * retain + kl_weight * kl)
