"""Loss of RMU, compared with the paper in float64, its released code and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rebend.repbend.methods.rmu import rmu, steering_vector
from tests.helpers.loss_parts import difference, drawn, length


def test_rmu_agrees_with_the_papers_two_losses() -> None:
    unsafe, retain, before = drawn(1, 7, 5), drawn(2, 4, 5), drawn(3, 4, 5)
    target = steering_vector(5, 6.5, seed=3).double()
    terms = rmu(unsafe, target, retain, before, retain_weight=12.0)
    forget = sum(length(difference(state.tolist(), target.tolist())) ** 2 for state in unsafe) / 7
    keep = sum(length(difference(a.tolist(), b.tolist())) ** 2 for a, b in zip(retain, before, strict=True)) / 4
    assert float(terms.change) == pytest.approx(forget, abs=1e-10)
    assert float(terms.retain) == pytest.approx(keep, abs=1e-10)
    assert float(terms.total) == pytest.approx(forget + 12.0 * keep, abs=1e-9)


def test_rmu_is_the_released_mean_squared_error_times_the_hidden_size() -> None:
    unsafe, retain, before = drawn(1, 7, 5), drawn(2, 4, 5), drawn(3, 4, 5)
    target = steering_vector(5, 2.0, seed=0).double()
    error = torch.nn.functional.mse_loss
    released = error(unsafe, target.expand(7, 5)) + 3.0 * error(retain, before)
    assert float(rmu(unsafe, target, retain, before, 3.0).total) == pytest.approx(5 * float(released), abs=1e-10)


def test_rmu_has_the_gradient_of_finite_differences() -> None:
    before, target = drawn(3, 4, 5), steering_vector(5, 2.0, seed=0).double()

    def loss(unsafe: Tensor, retain: Tensor) -> Tensor:
        return rmu(unsafe, target, retain, before, 3.0).total

    assert gradcheck(loss, [drawn(1, 6, 5).requires_grad_(), drawn(2, 4, 5).requires_grad_()])


def test_steering_vector_has_its_length_depends_on_the_seed_and_is_positive() -> None:
    vector = steering_vector(64, 6.5, seed=1)
    assert float(vector.norm()) == pytest.approx(6.5, rel=1e-6)
    assert vector.min() >= 0
    torch.manual_seed(99)
    assert torch.equal(vector, steering_vector(64, 6.5, seed=1))
    assert not torch.equal(vector, steering_vector(64, 6.5, seed=2))
    wide = torch.stack([steering_vector(4096, 1.0, seed) for seed in range(2)])
    assert float(wide[0] @ wide[1]) == pytest.approx(3 / 4, abs=0.02)  # E[x]^2 / E[x^2] of entries from [0, 1)


def test_rmu_is_zero_if_unsafe_states_equal_the_vector_and_retain_states_are_unchanged() -> None:
    target, retain = steering_vector(5, 2.0, seed=0), torch.ones(3, 5)
    unsafe = target.repeat(4, 1).requires_grad_()
    terms = rmu(unsafe, target, retain, retain, 3.0)
    terms.total.backward()
    assert float(terms.total.detach()) == 0.0
    assert not unsafe.grad.any()
