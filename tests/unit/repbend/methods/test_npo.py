"""Loss of NPO, compared with the paper in float64 and with finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rebend.repbend.methods.npo import npo
from tests.helpers.loss_parts import drawn, log_sigmoid


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
