"""Sums and means of log-probabilities."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from rebend.repbend.methods.circuit_breakers import Schedule, circuit_breakers
from rebend.repbend.methods.likelihood import negative_log_likelihood, sum_by_index
from rebend.repbend.methods.npo import npo
from rebend.repbend.methods.rmu import rmu
from tests.helpers.loss_parts import drawn

BOTH = Schedule(change=1.0, retain=1.0)


def test_likelihood_of_no_tokens_is_zero_with_a_gradient() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    value = negative_log_likelihood(nothing)
    value.backward()
    assert float(value.detach()) == 0.0


def test_tokens_are_summed_by_index_in_any_order() -> None:
    values, index = drawn(0, 9), torch.tensor([3, 0, 0, 1, 3, 3, 0, 1, 3])
    sums = sum_by_index(values, index, 5)
    for number in range(5):
        expected = sum(value for value, i in zip(values.tolist(), index.tolist(), strict=True) if i == number)
        assert float(sums[number]) == pytest.approx(expected, abs=1e-12)
    assert float(sums[2]) == float(sums[4]) == 0.0
    assert gradcheck(lambda tokens: sum_by_index(tokens, index, 5), [values.requires_grad_()])


def test_half_precision_is_summed_in_float32() -> None:
    ones = torch.ones(600, dtype=torch.bfloat16)
    assert float(sum_by_index(ones, torch.zeros(600, dtype=torch.long), 1)) == 600.0  # bfloat16 ends at 256
    states = torch.full((1, 4), 100.0, dtype=torch.bfloat16)
    for terms in (
        circuit_breakers([states], [states], [states], [states], BOTH),
        rmu(states, torch.zeros(4), states, states, 1.0),
        npo(ones, ones, ones, 0.1, 1.0),
    ):
        assert terms.total.dtype == torch.float32
