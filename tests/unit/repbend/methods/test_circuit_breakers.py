"""Loss of circuit breakers, compared with the paper in float64 and with finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd import gradcheck

from rebend.config.adapters import CircuitBreakersBlock
from rebend.repbend.methods.circuit_breakers import Schedule, circuit_breakers, rerouting_schedule
from tests.helpers.loss_parts import cosine, difference, fresh_model, layers, length

BOTH = Schedule(change=1.0, retain=1.0)


@pytest.mark.parametrize("n_frozen_layers", [0, 1])
def test_circuit_breakers_agree_with_algorithm_1(n_frozen_layers: int) -> None:
    unsafe, unsafe_before = layers(1, 2, 7), layers(2, 2, 7)
    retain, retain_before = layers(3, 3, 4), layers(4, 3, 4)
    terms = circuit_breakers(
        unsafe, unsafe_before, retain, retain_before, rerouting_schedule(3, 10, 8.0), n_frozen_layers
    )
    turned = [
        max(0.0, cosine(unsafe[layer][token].tolist(), unsafe_before[layer][token].tolist()))
        for layer, token in itertools.product(range(2), range(7))
    ]
    moved = [
        length(difference(retain[layer][token].tolist(), retain_before[layer][token].tolist()))
        for layer, token in itertools.product(range(3), range(4))
    ]
    change, keep = sum(turned) / (2 * 7), sum(moved) / ((3 + n_frozen_layers) * 4)
    assert 0 < sum(value == 0 for value in turned) < len(turned)
    assert float(terms.change) == pytest.approx(change, abs=1e-10)
    assert float(terms.retain) == pytest.approx(keep, abs=1e-10)
    assert float(terms.total) == pytest.approx(8.0 * (1 - 3 / 20) * change + 8.0 * (3 / 20) * keep, abs=1e-10)


def test_circuit_breakers_have_the_gradient_of_finite_differences() -> None:
    unsafe_before, retain_before = layers(2, 2, 6), layers(4, 2, 3)

    def loss(*states: Tensor) -> Tensor:
        return circuit_breakers(states[:2], unsafe_before, states[2:], retain_before, BOTH).total

    assert gradcheck(loss, [states.requires_grad_() for states in (*layers(1, 2, 6), *layers(3, 2, 3))])


def test_weights_move_from_change_to_retain_until_both_are_half() -> None:
    assert rerouting_schedule(1, 150, 10.0) == pytest.approx((10 * 299 / 300, 10 / 300))  # step / 300 in released code
    assert rerouting_schedule(150, 150, 10.0) == pytest.approx((5.0, 5.0))
    assert all(sum(rerouting_schedule(step, 40, 3.0)) == pytest.approx(3.0) for step in range(1, 41))


def test_orthogonal_and_opposite_states_have_no_gradient() -> None:
    before = [torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])]
    orthogonal = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, -1.0]])
    for states in (orthogonal, -before[0]):
        after = [states.clone().requires_grad_()]
        terms = circuit_breakers(after, before, before, before, BOTH)
        terms.total.backward()
        assert float(terms.change.detach()) == 0.0
        assert not after[0].grad.any()
    assert float(circuit_breakers([2 * before[0]], before, before, before, BOTH).change) == pytest.approx(1.0)


def test_zero_states_and_unmoved_states_have_gradient_zero_not_nan() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    one = torch.ones(2, 3)
    still = torch.ones(2, 3, requires_grad=True)
    terms = circuit_breakers([zero], [one], [still], [one], BOTH)
    terms.total.backward()
    assert [float(term.detach()) for term in terms] == [0.0, 0.0, 0.0]
    assert zero.grad is not None
    assert still.grad is not None
    assert not zero.grad.any()  # NaN would count as true
    assert not still.grad.any()
    assert float(circuit_breakers([one], [torch.zeros(2, 3)], [one], [one], BOTH).change) == 0.0


def test_training_starts_from_a_fresh_adapter_with_a_gradient_of_rounding() -> None:
    model = fresh_model()
    tokens = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(0))

    def states() -> Tensor:
        return model(tokens, output_hidden_states=True).hidden_states[2].flatten(0, 1)

    with model.disable_adapter(), torch.no_grad():
        before = states()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    course = []
    for _ in range(40):
        change = circuit_breakers([states()], [before], [before], [before], BOTH).change
        optimizer.zero_grad()
        change.backward()
        optimizer.step()
        course.append(change.item())
    assert course[0] == pytest.approx(1.0, abs=1e-6)
    assert course[-1] < 0.2


def test_target_layers_are_sorted_and_repeated_ones_and_embeddings_are_refused() -> None:
    """The released list of RepBend's run has 29 in place of 19, so it has 29 twice."""
    block = {"method": "circuit_breakers", "examples": "s", "paired_examples": "p", "retain_chats": "r"}
    assert CircuitBreakersBlock.model_validate({**block, "target_layers": [20, 10]}).target_layers == [10, 20]
    for indices, message in (([18, 29, 20, 29], "twice: \\[29\\]"), ([0, 3], "embeddings")):
        with pytest.raises(ValidationError, match=message):
            CircuitBreakersBlock.model_validate({**block, "target_layers": indices})
