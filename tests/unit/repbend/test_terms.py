"""The terms of RepBend: signs, reductions, and what they do at the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel

from rebend.models.loading import Policy
from rebend.models.lora import add_adapter
from rebend.repbend.examples import Row, StepRows, TrainingExamples
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.methods.terms import (
    Terms,
    Weights,
    gather_unsafe,
    hold_retain,
    keep_safe,
    moved,
    push_unsafe,
    repbend_loss,
    row_means,
)
from rebend.repbend.objective import Loss, Moment
from tests.helpers.training_parts import configuration, settings

VOCABULARY = 40


def adapted_model(seed: int, strength: float = 0.3) -> PeftModel:
    """A float64 Llama with an adapter whose weights are all random, so that it does something."""
    torch.manual_seed(seed)
    from transformers import LlamaForCausalLM

    policy = Policy(LlamaForCausalLM(configuration(VOCABULARY)).double(), None, "")
    model = add_adapter(policy, settings(lora_dropout=0.0), [0, 1, 2])
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=strength)
    return model.double()


def ragged(seed: int, n: int = 4) -> StepRows:
    """Rows of different lengths of prompt and answer."""
    generator = torch.Generator().manual_seed(seed)

    def row(name: str, chat: bool = False) -> Row:
        prompt, answer = (int(size) for size in torch.randint(2, 12, (2,), generator=generator))
        tokens = torch.randint(0, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        return Row(name, tokens, 0 if chat else prompt)

    return StepRows(
        [row(f"safe{i}") for i in range(n)],
        [row(f"unsafe{i}") for i in range(n)],
        [(row(f"pair{i} safe"), row(f"pair{i} unsafe")) for i in range(n)],
        [row(f"chat{i}", chat=True) for i in range(n)],
    )


def loss_of(model: PeftModel, rows: StepRows, **changes: Any) -> Loss:
    """The loss of a group, and its gradient on the adapter."""
    block = settings(lora_dropout=0.0, **changes)
    objective = RepBend(block, TrainingExamples(rows.safe, rows.unsafe, rows.pairs, rows.retain, {}), 3)
    loss = objective.loss(model, rows, Moment(0, 1, len(rows.retain)))
    loss.total.backward()
    return loss


def test_before_the_first_step_both_norms_and_their_gradients_are_exactly_zero() -> None:
    model, rows = adapted_model(0, strength=0.0), ragged(0)
    terms = loss_of(model, rows, gamma=0.0, epsilon=0.0).terms
    assert [float(terms[name]) for name in ("keep", "push", "hold")] == [0.0, 0.0, 0.0]
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)  # NaN would count as true


def test_the_cosine_term_alone_gets_a_fresh_adapter_going() -> None:
    torch.manual_seed(0)
    from transformers import LlamaForCausalLM

    model = add_adapter(Policy(LlamaForCausalLM(configuration(VOCABULARY)), None, ""), settings(), [0, 1, 2])
    assert torch.isfinite(loss_of(model, ragged(0), epsilon=0.0).total)
    moved = [w.grad.abs().max() for name, w in model.named_parameters() if "lora_B" in name and w.grad is not None]
    assert max(moved) > 0


def test_distances_are_euclidean_and_have_gradient_zero_at_zero() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    lengths = moved([vectors], [torch.zeros(2, 2)])
    lengths.sum().backward()
    assert lengths.tolist() == [[5.0, 0.0]]
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_the_distances_gradient_is_right() -> None:
    new, old = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda states: moved([states], [old]), new.requires_grad_())


def test_signs_keep_and_hold_cost_and_push_pays() -> None:
    one = torch.tensor(1.0)
    weights = Weights(alpha=2.0, beta=3.0, gamma=5.0, epsilon=7.0, eta=11.0)
    assert float(repbend_loss(Terms(one, one, one, one, one), weights)) == 2.0 - 3.0 + 5.0 + 7.0 + 11.0


def test_lowering_the_gather_term_pulls_unsafe_rows_together() -> None:
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = gather_unsafe([states])
    before.backward()
    assert states.grad is not None
    after = gather_unsafe([(states - 0.5 * states.grad).detach()])
    assert after < before
    assert float(gather_unsafe([torch.ones(3, 4)])) == pytest.approx(0.0, abs=1e-6)


def test_a_single_unsafe_row_has_nothing_to_gather() -> None:
    states = torch.ones(1, 4, requires_grad=True)
    term = gather_unsafe([states])
    term.backward()
    assert float(term.detach()) == 0.0


def test_states_beyond_the_limit_are_pushed_no_further() -> None:
    reference = torch.zeros(2, 3)
    adapted = torch.tensor([[30.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    term = push_unsafe([adapted], [reference], limit=10.0)
    term.backward()
    assert float(term.detach()) == pytest.approx((10.0 + 1.0) / 2)
    assert adapted.grad is not None
    assert adapted.grad.tolist() == [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]
    assert float(push_unsafe([adapted.detach()], [reference])) == pytest.approx(15.5)


def test_the_published_kl_grows_with_length_and_the_corrected_does_not() -> None:
    tokens = torch.rand(6, generator=torch.Generator().manual_seed(0))
    double = torch.cat([tokens, tokens])
    assert float(hold_retain(double, n_chats=1)) == pytest.approx(2 * float(hold_retain(tokens, n_chats=1)))
    assert float(hold_retain(double, 1, "corrected")) == pytest.approx(float(hold_retain(tokens, 1, "corrected")))
    assert float(hold_retain(tokens, n_chats=3)) == pytest.approx(float(tokens.sum()) / 3)


def test_the_embeddings_count_as_a_layer_that_cannot_move_when_published() -> None:
    old, new = torch.zeros(4, 3), torch.ones(4, 3)
    assert float(keep_safe([new], [old], still=1)) == pytest.approx(float(keep_safe([new], [old])) / 2)


def test_row_means_are_over_each_rows_own_places() -> None:
    states = torch.tensor([[1.0], [10.0], [3.0], [20.0]])
    assert row_means(states, torch.tensor([4, 7, 4, 7])).tolist() == [[2.0], [15.0]]


def test_half_precision_states_are_compared_in_float32() -> None:
    old = torch.full((1, 4), 100.0, dtype=torch.bfloat16)
    new = (old.float() + 1).bfloat16()
    assert keep_safe([new], [old]).dtype == torch.float32
    assert float(keep_safe([new], [old])) == pytest.approx(2.0)
