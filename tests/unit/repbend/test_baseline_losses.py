"""Losses of the baselines: each against its paper in plain float64, finite differences, and TRL where it has it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd import gradcheck

from rebend.config.adapters import CircuitBreakersBlock
from rebend.repbend.methods.baseline_losses import (
    PairLogps,
    Schedule,
    circuit_breakers,
    dpo,
    negative_log_likelihood,
    npo,
    rerouting_schedule,
    rmu,
    segment_sum,
    sft,
    steering_vector,
)

BOTH = Schedule(change=1.0, retain=1.0)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Random float64 values."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(seed: int, n_layers: int, n_tokens: int, size: int = 5) -> list[Tensor]:
    """States of some layers, `[N, D]` each."""
    return [drawn(seed * 100 + layer, n_tokens, size) for layer in range(n_layers)]


def length(vector: list[float]) -> float:
    return math.sqrt(sum(entry * entry for entry in vector))


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / (length(left) * length(right))


def difference(left: list[float], right: list[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]


def log_sigmoid(value: float) -> float:
    return math.log(1 / (1 + math.exp(-value)))


# Circuit breakers


@pytest.mark.parametrize("still", [0, 1])
def test_circuit_breakers_agree_with_algorithm_1(still: int) -> None:
    unsafe, unsafe_before = layers(1, 2, 7), layers(2, 2, 7)
    retain, retain_before = layers(3, 3, 4), layers(4, 3, 4)
    terms = circuit_breakers(unsafe, unsafe_before, retain, retain_before, rerouting_schedule(3, 10, 8.0), still)
    turned = [
        max(0.0, cosine(unsafe[layer][token].tolist(), unsafe_before[layer][token].tolist()))
        for layer, token in itertools.product(range(2), range(7))
    ]
    kept = [
        length(difference(retain[layer][token].tolist(), retain_before[layer][token].tolist()))
        for layer, token in itertools.product(range(3), range(4))
    ]
    change, keep = sum(turned) / (2 * 7), sum(kept) / ((3 + still) * 4)
    assert 0 < sum(value == 0 for value in turned) < len(turned)
    assert float(terms.change) == pytest.approx(change, abs=1e-10)
    assert float(terms.retain) == pytest.approx(keep, abs=1e-10)
    assert float(terms.total) == pytest.approx(8.0 * (1 - 3 / 20) * change + 8.0 * (3 / 20) * keep, abs=1e-10)


def test_circuit_breakers_have_the_gradient_of_finite_differences() -> None:
    unsafe_before, retain_before = layers(2, 2, 6), layers(4, 2, 3)

    def loss(*states: Tensor) -> Tensor:
        return circuit_breakers(states[:2], unsafe_before, states[2:], retain_before, BOTH).total

    assert gradcheck(loss, [states.requires_grad_() for states in (*layers(1, 2, 6), *layers(3, 2, 3))])


def test_the_weight_moves_from_turning_away_to_keeping_until_both_are_half() -> None:
    assert rerouting_schedule(1, 150, 10.0) == pytest.approx((10 * 299 / 300, 10 / 300))  # step / 300 in released code
    assert rerouting_schedule(150, 150, 10.0) == pytest.approx((5.0, 5.0))
    assert all(sum(rerouting_schedule(step, 40, 3.0)) == pytest.approx(3.0) for step in range(1, 41))


def test_nothing_is_left_to_turn_away_once_states_are_orthogonal_or_opposite() -> None:
    before = [torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])]
    orthogonal = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, -1.0]])
    for states in (orthogonal, -before[0]):
        after = [states.clone().requires_grad_()]
        terms = circuit_breakers(after, before, before, before, BOTH)
        terms.total.backward()
        assert float(terms.change.detach()) == 0.0
        assert not after[0].grad.any()
    assert float(circuit_breakers([2 * before[0]], before, before, before, BOTH).change) == pytest.approx(1.0)


def test_states_of_exactly_zero_and_states_that_have_not_moved_have_gradient_zero_not_nan() -> None:
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


def test_rerouting_starts_from_a_fresh_adapter_although_its_gradient_is_only_rounding_there() -> None:
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


def test_target_layers_are_sorted_and_none_is_named_twice_or_the_embeddings() -> None:
    """The released list of RepBend's run has 29 where 19 belongs, and so 29 twice."""
    block = {"method": "circuit_breakers", "examples": "s", "paired_examples": "p", "retain_chats": "r"}
    assert CircuitBreakersBlock.model_validate({**block, "target_layers": [20, 10]}).target_layers == [10, 20]
    for layers, message in (([18, 29, 20, 29], "twice: \\[29\\]"), ([0, 3], "embeddings")):
        with pytest.raises(ValidationError, match=message):
            CircuitBreakersBlock.model_validate({**block, "target_layers": layers})


# RMU


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


def test_the_steering_vector_is_of_the_asked_length_drawn_from_the_seed_and_all_positive() -> None:
    vector = steering_vector(64, 6.5, seed=1)
    assert float(vector.norm()) == pytest.approx(6.5, rel=1e-6)
    assert vector.min() >= 0
    torch.manual_seed(99)
    assert torch.equal(vector, steering_vector(64, 6.5, seed=1))
    assert not torch.equal(vector, steering_vector(64, 6.5, seed=2))
    wide = torch.stack([steering_vector(4096, 1.0, seed) for seed in range(2)])
    assert float(wide[0] @ wide[1]) == pytest.approx(3 / 4, abs=0.02)  # E[x]^2 / E[x^2] of entries from [0, 1)


def test_rmu_is_at_its_least_where_unsafe_states_are_the_vector_and_retain_states_have_stayed() -> None:
    target, retain = steering_vector(5, 2.0, seed=0), torch.ones(3, 5)
    unsafe = target.repeat(4, 1).requires_grad_()
    terms = rmu(unsafe, target, retain, retain, 3.0)
    terms.total.backward()
    assert float(terms.total.detach()) == 0.0
    assert not unsafe.grad.any()


# NPO


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
    """Proposition 1: value, less 2/β · log 2, and gradient."""
    adapted, before, beta = drawn(1, 6).requires_grad_(), drawn(2, 6), 1e-6
    change = npo(adapted, before, drawn(3, 0), beta, 0.0).change
    change.backward()
    ascent = float((adapted - before).mean().detach())  # minimised: log-probability falls
    assert float(change.detach()) - 2 / beta * math.log(2) == pytest.approx(ascent, abs=1e-5)
    assert adapted.grad is not None
    assert adapted.grad.tolist() == pytest.approx([1 / 6] * 6, rel=1e-5)


def test_npo_weighs_a_response_less_the_less_likely_it_has_become_and_never_falls_below_zero() -> None:
    adapted = torch.tensor([0.0, -50.0, -5000.0], dtype=torch.float64, requires_grad=True)
    change = npo(adapted, torch.zeros(3, dtype=torch.float64), drawn(3, 0), 0.1, 0.0).change
    change.backward()
    assert adapted.grad is not None
    slopes = (3 * adapted.grad).tolist()
    assert slopes == pytest.approx([1.0, 2 / (1 + math.exp(5)), 0.0], abs=1e-10)  # adaptive weight, section 3
    least = npo(adapted.detach()[2:], torch.zeros(1).double(), drawn(3, 0), 0.1, 0.0).change
    assert 0.0 <= float(least) < 1e-100


# DPO


def pairs(seed: int, n: int = 5) -> PairLogps:
    return PairLogps(drawn(seed, n, scale=3.0), drawn(seed + 50, n, scale=3.0))


def test_dpo_agrees_with_equation_7() -> None:
    adapted, before, retain = pairs(1), pairs(2), drawn(3, 9) - 3
    terms = dpo(adapted, before, retain, beta=0.4, retain_weight=0.5)
    rows = zip(*(column.tolist() for column in (*adapted, *before)), strict=True)
    expected = -sum(log_sigmoid(0.4 * (w - w_ref) - 0.4 * (l - l_ref)) for w, l, w_ref, l_ref in rows) / 5  # noqa: E741
    assert float(terms.change) == pytest.approx(expected, abs=1e-10)
    assert float(terms.total) == pytest.approx(expected - 0.5 * sum(retain.tolist()) / 9, abs=1e-10)


def test_dpo_has_the_gradient_of_finite_differences() -> None:
    before, nothing = pairs(2), drawn(3, 0)

    def loss(safe: Tensor, unsafe: Tensor) -> Tensor:
        return dpo(PairLogps(safe, unsafe), before, nothing, 0.4, 0.0).total

    assert gradcheck(loss, [column.requires_grad_() for column in pairs(1)])


def test_dpo_at_the_reference_is_log_2_and_raises_safe_against_unsafe() -> None:
    before = pairs(2)
    adapted = PairLogps(*(column.clone().requires_grad_() for column in before))
    terms = dpo(adapted, before, drawn(3, 0), beta=0.4, retain_weight=0.0)
    terms.total.backward()
    assert float(terms.change.detach()) == pytest.approx(math.log(2), abs=1e-12)
    assert adapted.safe.grad.tolist() == pytest.approx([-0.4 / 2 / 5] * 5)  # -β σ(0), mean over pairs
    assert adapted.unsafe.grad.tolist() == pytest.approx([0.4 / 2 / 5] * 5)


def test_dpo_is_the_loss_of_trl_on_a_real_model(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig

    from tests.helpers.training_parts import tokenizer

    rows = {
        "prompt": ["how do I make tea", "tell me how to break the old garden gate", "a kite"],
        "chosen": [" take tea and wait", " no, I will not break it", " yes"],
        "rejected": [" hit tea twice", " wait", " take a kite and hit the old garden gate"],
    }
    arguments = trl.DPOConfig(
        str(tmp_path), beta=0.3, per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False, max_length=None
    )
    trainer = trl.DPOTrainer(
        base_model(vocabulary=320),
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "down_proj"]),
    )
    model = trainer.model
    disturb(model)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(model, dict(batch))

    def logps() -> PairLogps:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        chances = model(**inputs).logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        line, place = batch["completion_mask"][:, 1:].nonzero(as_tuple=True)
        return PairLogps(*segment_sum(chances[line, place], line, 6).chunk(2))  # chosen above, rejected below

    with model.disable_adapter(), torch.no_grad():
        before = logps()
    ours = dpo(logps(), before, torch.zeros(0), beta=0.3, retain_weight=0.0).total
    assert abs(float(ours.detach()) - math.log(2)) > 0.01
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


# Likelihood


def test_sft_is_the_mean_over_all_tokens_as_transformers_has_it() -> None:
    model = base_model(vocabulary=40)
    tokens = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    starts = [2, 5, 7]  # of the responses
    labels = tokens.clone()
    for line, start in enumerate(starts):
        labels[line, :start] = -100
    theirs = model(tokens, labels=labels).loss
    chances = model(tokens).logits.log_softmax(-1)
    response = torch.stack(
        [chances[n, place - 1, tokens[n, place]] for n, start in enumerate(starts) for place in range(start, 9)]
    )
    terms = sft(response, response[:4], retain_weight=0.5)
    assert float(terms.change.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    kept = -sum(response[:4].tolist()) / 4
    assert float(terms.total.detach()) == pytest.approx(float(theirs.detach()) + 0.5 * kept, rel=1e-6)


def test_a_likelihood_of_nothing_is_zero_and_has_a_gradient() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    value = negative_log_likelihood(nothing)
    value.backward()
    assert float(value.detach()) == 0.0


def test_segment_sum_adds_up_each_rows_tokens_in_whatever_order_they_come() -> None:
    values, rows = drawn(0, 9), torch.tensor([3, 0, 0, 1, 3, 3, 0, 1, 3])
    sums = segment_sum(values, rows, 5)
    for row in range(5):
        expected = sum(value for value, owner in zip(values.tolist(), rows.tolist(), strict=True) if owner == row)
        assert float(sums[row]) == pytest.approx(expected, abs=1e-12)
    assert float(sums[2]) == float(sums[4]) == 0.0
    assert gradcheck(lambda tokens: segment_sum(tokens, rows, 5), [values.requires_grad_()])


def test_half_precision_is_added_up_in_float32() -> None:
    ones = torch.ones(600, dtype=torch.bfloat16)
    assert float(segment_sum(ones, torch.zeros(600, dtype=torch.long), 1)) == 600.0  # bfloat16 ends at 256
    states = torch.full((1, 4), 100.0, dtype=torch.bfloat16)
    for terms in (
        circuit_breakers([states], [states], [states], [states], BOTH),
        rmu(states, torch.zeros(4), states, states, 1.0),
        npo(ones, ones, ones, 0.1, 1.0),
    ):
        assert terms.total.dtype == torch.float32


def base_model(vocabulary: int) -> Any:
    from transformers import LlamaForCausalLM

    from tests.helpers.training_parts import configuration

    torch.manual_seed(0)
    return LlamaForCausalLM(configuration(vocabulary))


def fresh_model() -> Any:
    from peft import LoraConfig, get_peft_model

    model = base_model(vocabulary=40)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))


def disturb(model: Any) -> None:
    """Give an adapter random weights, so that it does something."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.3)
