"""Lengths of moved hidden states, and their gradients."""

from __future__ import annotations

import pytest
import torch

from rebend.repbend.examples import TrainingExample
from rebend.repbend.methods.terms import mean_shift_norm, shift_norms, whole_texts


def test_distances_are_euclidean_and_have_gradient_zero_at_zero() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    lengths = shift_norms([vectors], [torch.zeros(2, 2)])
    lengths.sum().backward()
    assert lengths.tolist() == [[5.0, 0.0]]
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_gradient_of_distances_equals_finite_differences() -> None:
    new, old = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda states: shift_norms([states], [old]), new.requires_grad_())


def test_frozen_layers_count_in_the_mean() -> None:
    old, new = torch.zeros(4, 3), torch.ones(4, 3)
    assert float(mean_shift_norm([new], [old], n_frozen_layers=1)) == pytest.approx(
        float(mean_shift_norm([new], [old])) / 2
    )


def test_differences_of_half_precision_states_are_float32() -> None:
    old = torch.full((1, 4), 100.0, dtype=torch.bfloat16)
    new = (old.float() + 1).bfloat16()
    assert mean_shift_norm([new], [old]).dtype == torch.float32
    assert float(mean_shift_norm([new], [old])) == pytest.approx(2.0)


def test_skipped_tokens_at_the_beginning_are_read_by_no_term() -> None:
    example = TrainingExample(row_id="a", tokens=[5, 6, 7, 8], n_prompt=2)
    assert list(whole_texts("retain", [example])[0].positions["retain"]) == [0, 1, 2, 3]
    assert list(whole_texts("retain", [example], 1)[0].positions["retain"]) == [1, 2, 3]
