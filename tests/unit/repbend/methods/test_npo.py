"""Loss of NPO, compared with the paper in float64 and with finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rebend.config.adapters import NpoBlock
from rebend.repbend.examples import StepExamples, TrainingExample, TrainingExamples
from rebend.repbend.methods.npo import Npo, npo
from rebend.repbend.objective import StepInfo
from tests.helpers.loss_parts import disturb, drawn, fresh_model, log_sigmoid


def test_npo_agrees_with_both_forms_of_equation_3() -> None:
    adapted, before, retain = drawn(1, 6, scale=4.0) - 20, drawn(2, 6, scale=4.0) - 20, drawn(3, 9) - 3
    beta = 0.3
    terms = npo(adapted, before, retain, beta, retain_weight=2.0)
    ratios = [a - b for a, b in zip(adapted.tolist(), before.tolist(), strict=True)]
    first = -2 / beta * sum(log_sigmoid(-beta * ratio) for ratio in ratios) / 6
    second = 2 / beta * sum(math.log(1 + math.exp(ratio) ** beta) for ratio in ratios) / 6
    nll = -sum(retain.tolist()) / 9
    assert float(terms.change) == pytest.approx(first, abs=1e-10)
    assert float(terms.change) == pytest.approx(second, abs=1e-10)
    assert float(terms.total) == pytest.approx(first + 2.0 * nll, abs=1e-10)


def test_npo_has_the_gradient_of_finite_differences() -> None:
    before = drawn(2, 6)

    def loss(adapted: Tensor, retain: Tensor) -> Tensor:
        return npo(adapted, before, retain, 0.3, 2.0).total

    assert gradcheck(loss, [drawn(1, 6).requires_grad_(), drawn(3, 9).requires_grad_()])


def test_npo_tends_to_gradient_ascent_as_beta_goes_to_zero() -> None:
    """Proposition 1: value minus 2/β · log 2, and gradient."""
    adapted, before, beta = drawn(1, 6).requires_grad_(), drawn(2, 6), 1e-6
    change = npo(adapted, before, drawn(3, 0), beta, 0.0).change
    change.backward()
    ascent = float((adapted - before).mean().detach())  # minimised: log-probability falls
    assert float(change.detach()) - 2 / beta * math.log(2) == pytest.approx(ascent, abs=1e-5)
    assert adapted.grad is not None
    assert adapted.grad.tolist() == pytest.approx([1 / 6] * 6, rel=1e-5)


def test_npo_has_less_gradient_for_less_likely_answers_and_is_never_negative() -> None:
    adapted = torch.tensor([0.0, -50.0, -5000.0], dtype=torch.float64, requires_grad=True)
    change = npo(adapted, torch.zeros(3, dtype=torch.float64), drawn(3, 0), 0.1, 0.0).change
    change.backward()
    assert adapted.grad is not None
    slopes = (3 * adapted.grad).tolist()
    assert slopes == pytest.approx([1.0, 2 / (1 + math.exp(5)), 0.0], abs=1e-10)  # adaptive weight, section 3
    least = npo(adapted.detach()[2:], torch.zeros(1).double(), drawn(3, 0), 0.1, 0.0).change
    assert 0.0 <= float(least) < 1e-100


def test_kl_of_the_released_script_equals_a_loop_over_all_logits() -> None:
    """Temperature 2, times 4, mean over the tokens of safe answers and of whole chats, at the tokens themselves."""
    model = fresh_model().double()
    disturb(model)

    def row(n_prompt: int, *tokens: int) -> TrainingExample:
        return TrainingExample("r", list(tokens), n_prompt)

    safe, unsafe, chat = row(2, 5, 6, 7, 8, 9), row(1, 9, 8, 7), row(0, 3, 4, 5, 6)
    group = StepExamples([safe], [unsafe], [(row(1, 2, 3), row(1, 2, 4))], [chat])
    data = TrainingExamples(group.safe, group.unsafe, group.pairs, group.retain, {})
    common = {"method": "npo", "examples": "e", "paired_examples": "p", "retain_chats": "r", "lora_dropout": 0.0}
    losses = [
        Npo(NpoBlock.model_validate({**common, "kl_weight": weight}), data, 3).loss(model, group, StepInfo(0, 1, 1))
        for weight in (0.1, 0.0)
    ]
    total, tokens = 0.0, 0
    for text in (safe, group.pairs[0][0], chat):
        ids = torch.tensor([text.tokens])
        with torch.no_grad():
            new = (model(ids).logits[0] / 2).softmax(-1)
            with model.disable_adapter():
                old = (model(ids).logits[0] / 2).softmax(-1)
        for place in range(text.n_prompt, len(text.tokens)):
            total += 4 * sum(
                float(o) * math.log(float(o) / float(n)) for o, n in zip(old[place], new[place], strict=True)
            )
            tokens += 1
    assert tokens == 3 + 1 + 4
    assert float(losses[0].terms["retain_kl"]) == pytest.approx(total / tokens, rel=1e-6)
    assert float(losses[1].terms["retain_kl"]) == 0.0  # not computed
    difference = losses[0].total.detach() - losses[1].total.detach()
    assert float(difference) == pytest.approx(0.1 * total / tokens, rel=1e-5)
