"""The four terms, against a plain restatement of the published computation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from rebend.adapters import add_adapter, reference_pass
from rebend.bend_batches import Row, StepRows
from rebend.bend_losses import Terms, Weights, bend_loss, gather_unsafe, hold_retain, keep_safe, length, push_unsafe
from rebend.bend_passes import Layers
from rebend.bends import step_gradients
from rebend.models import Policy
from tests.unit.bend_parts import configuration, settings

VOCABULARY = 40
KEEP = {"all": [0, 1, 2, 3], "target": [1, 2]}
PUSH = [1, 2]
MODES = ("response_all", "prompt_response", "prompt_all", "prompt_last")


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
        [row(f"chat{i}", chat=True) for i in range(3)],
    )


def published_layout(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, prompt mask and response mask: prompts padded on the left to one width, answers on the right."""
    widths = max(row.n_prompt for row in rows) + 2, max(len(row.tokens) - row.n_prompt for row in rows) + 3
    tokens = torch.full((len(rows), sum(widths)), 1)
    prompt, response = torch.zeros(2, len(rows), sum(widths), dtype=torch.float64)
    for line, row in enumerate(rows):
        start = widths[0] - row.n_prompt
        tokens[line, start : start + len(row.tokens)] = torch.tensor(row.tokens)
        prompt[line, start : widths[0]] = 1
        response[line, widths[0] : start + len(row.tokens)] = 1
    return tokens, prompt, response


def published_terms(model: PeftModel, rows: StepRows, block: Any) -> tuple[float, float, float, float]:
    """The terms as released, in float64: padded, masked, one entry after the other."""

    def both(part: list[Row]) -> tuple[Any, Any, Tensor, Tensor]:
        tokens, prompt, response = published_layout(part)
        given = {"input_ids": tokens, "attention_mask": (prompt + response).long(), "output_hidden_states": True}
        with reference_pass(model):
            before = model(**given)
        with torch.no_grad():
            return before, model(**given), prompt, response

    def moved(part: list[Row], layers: list[int], limit: float) -> float:
        before, after, prompt, response = both(part)
        last = torch.zeros_like(prompt)
        last[:, int(prompt.sum(0).nonzero().max())] = 1
        mask = {
            "response_all": response,
            "prompt_response": prompt + response,
            "prompt_all": prompt,
            "prompt_last": last,
        }[block.loss_mode]
        total = 0.0
        for layer, line, place in itertools.product(layers, range(len(part)), range(mask.shape[1])):
            change = (after.hidden_states[layer] - before.hidden_states[layer])[line, place] * mask[line, place]
            total += min(math.sqrt(sum(float(entry) ** 2 for entry in change)), limit)
        return total / (len(layers) * float(mask.sum()))

    def differing() -> float:
        _, after, prompt, _ = both(rows.unsafe)
        place = int(prompt.sum(0).nonzero().max())
        found = []
        for layer, i, j in itertools.product(PUSH, range(len(rows.unsafe)), range(len(rows.unsafe))):
            if i != j:
                a, b = after.hidden_states[layer][i, place], after.hidden_states[layer][j, place]
                found.append(1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
        return sum(found) / len(found)

    def held() -> float:
        before, after, prompt, response = both(rows.retain)
        mask = (prompt + response)[..., None]
        old = torch.softmax(before.logits * mask / block.kl_temperature, -1)  # padding: equal logits, KL of zero
        new = torch.softmax(after.logits * mask / block.kl_temperature, -1)
        total = float((old * (old.log() - new.log())).sum()) * block.kl_temperature**2
        return total / (len(rows.retain) if block.kl_reduction == "sequence" else float(mask.sum()))

    limit = block.push_limit or math.inf
    keep = moved(rows.safe, KEEP[block.alpha_mode], math.inf)
    return keep, moved(rows.unsafe, PUSH, limit), differing(), held()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("seed", "other"), [(0, {}), (1, {"alpha_mode": "target", "kl_reduction": "token"})])
def test_every_term_agrees_with_the_published_computation(mode: str, seed: int, other: dict[str, Any]) -> None:
    block = settings(loss_mode=mode, push_limit=None if seed else 4.0, **other)
    model, rows = adapted_model(seed), ragged(seed)
    cut = StepRows(*([row.cut_for(block.loss_mode) for row in part] for part in (rows.safe, rows.unsafe)), rows.retain)
    terms, total = step_gradients(model, cut, Layers(KEEP[block.alpha_mode], PUSH), block)
    expected = published_terms(model, rows, block)
    assert all(value > 1e-3 for value in expected)
    assert [float(term) for term in terms] == pytest.approx(expected, rel=1e-6)
    keep, push, gather, hold = expected
    assert float(total) == pytest.approx(0.5 * keep - 0.5 * push + 0.1 * gather + 0.3 * hold, rel=1e-6)


def test_before_the_first_step_both_norms_and_their_gradients_are_exactly_zero() -> None:
    model, rows = adapted_model(0, strength=0.0), ragged(0)
    block = settings(gamma=0.0, epsilon=0.0)
    terms, _ = step_gradients(model, rows, Layers(KEEP["all"], PUSH), block)
    assert (float(terms.keep), float(terms.push), float(terms.hold)) == (0.0, 0.0, 0.0)
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)  # NaN would count as true


def test_the_cosine_term_alone_gets_a_fresh_adapter_going() -> None:
    torch.manual_seed(0)
    from transformers import LlamaForCausalLM

    model = add_adapter(Policy(LlamaForCausalLM(configuration(VOCABULARY)), None, ""), settings(), [0, 1, 2])
    _, total = step_gradients(model, ragged(0), Layers(KEEP["all"], PUSH), settings(epsilon=0.0))
    assert torch.isfinite(total)
    moved = [w.grad.abs().max() for name, w in model.named_parameters() if "lora_B" in name and w.grad is not None]
    assert max(moved) > 0


def test_length_is_the_euclidean_length_and_has_gradient_zero_at_zero() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    lengths = length(vectors)
    lengths.sum().backward()
    assert lengths.tolist() == [5.0, 0.0]
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_signs_keep_and_hold_cost_and_push_pays() -> None:
    one = torch.tensor(1.0)
    weights = Weights(alpha=2.0, beta=3.0, gamma=5.0, epsilon=7.0)
    assert float(bend_loss(Terms(one, one, one, one), weights)) == 2.0 - 3.0 + 5.0 + 7.0


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


def test_the_published_kl_grows_with_length_and_the_token_mean_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 6, 9, generator=generator)
    double = [torch.cat([new, new])], [torch.cat([old, old])]
    assert float(hold_retain(*double, n_chats=1)) == pytest.approx(2 * float(hold_retain([new], [old], n_chats=1)))
    assert float(hold_retain(*double, n_chats=1, reduction="token")) == pytest.approx(
        float(hold_retain([new], [old], n_chats=1, reduction="token"))
    )
    assert float(hold_retain([new], [old], n_chats=3)) == pytest.approx(
        float(hold_retain([new[:2], new[2:]], [old[:2], old[2:]], n_chats=3))
    )


def test_half_precision_states_are_compared_in_float32() -> None:
    old = torch.full((1, 4), 100.0, dtype=torch.bfloat16)
    new = (old.float() + 1).bfloat16()
    assert keep_safe([new], [old]).dtype == torch.float32
    assert float(keep_safe([new], [old])) == pytest.approx(2.0)
