"""RepBend's terms: signs, reductions, values before the first step, and the tokens that they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel

from rebend.models.loading import Policy
from rebend.models.lora import add_adapter
from rebend.repbend.examples import StepExamples, TrainingExample, TrainingExamples, load_training_examples
from rebend.repbend.forward import Example
from rebend.repbend.methods.repbend import (
    RepBend,
    Terms,
    Weights,
    mean_by_index,
    repbend_loss,
    retain_kl,
    unsafe_cosine,
    unsafe_norm,
)
from rebend.repbend.objective import Loss, StepInfo
from tests.helpers.training_parts import N_LAYERS, configuration, settings, tables, tokenizer

VOCABULARY = 40


def adapted_model(seed: int, strength: float = 0.3) -> PeftModel:
    """A float64 Llama with an adapter whose weights are all random, so that it changes the states."""
    torch.manual_seed(seed)
    from transformers import LlamaForCausalLM

    policy = Policy(LlamaForCausalLM(configuration(VOCABULARY)).double(), None, "")
    model = add_adapter(policy, settings(lora_dropout=0.0), [0, 1, 2])
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=strength)
    return model.double()


def ragged(seed: int, n: int = 4) -> StepExamples:
    """Examples with prompts and answers of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def row(name: str, chat: bool = False) -> TrainingExample:
        prompt, answer = (int(size) for size in torch.randint(2, 12, (2,), generator=generator))
        tokens = torch.randint(0, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        return TrainingExample(name, tokens, 0 if chat else prompt)

    return StepExamples(
        [row(f"safe{i}") for i in range(n)],
        [row(f"unsafe{i}") for i in range(n)],
        [(row(f"pair{i} safe"), row(f"pair{i} unsafe")) for i in range(n)],
        [row(f"chat{i}", chat=True) for i in range(n)],
    )


def loss_of(model: PeftModel, rows: StepExamples, **changes: Any) -> Loss:
    """Return the loss of a group; its gradient is added to the adapter."""
    block = settings(lora_dropout=0.0, **changes)
    objective = RepBend(block, TrainingExamples(rows.safe, rows.unsafe, rows.pairs, rows.retain, {}), 3)
    loss = objective.loss(model, rows, StepInfo(0, 1, len(rows.retain)))
    loss.total.backward()
    return loss


def test_norms_and_their_gradients_are_zero_before_the_first_step() -> None:
    model, rows = adapted_model(0, strength=0.0), ragged(0)
    terms = loss_of(model, rows, gamma=0.0, epsilon=0.0).terms
    assert [float(terms[name]) for name in ("safe_norm", "unsafe_norm", "retain_kl")] == [0.0, 0.0, 0.0]
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)  # NaN would count as true


def test_cosine_term_has_a_gradient_for_a_fresh_adapter() -> None:
    torch.manual_seed(0)
    from transformers import LlamaForCausalLM

    model = add_adapter(Policy(LlamaForCausalLM(configuration(VOCABULARY)), None, ""), settings(), [0, 1, 2])
    assert torch.isfinite(loss_of(model, ragged(0), epsilon=0.0).total)
    gradients = [w.grad.abs().max() for name, w in model.named_parameters() if "lora_B" in name and w.grad is not None]
    assert max(gradients) > 0


def test_only_the_unsafe_norm_enters_with_minus() -> None:
    one = torch.tensor(1.0)
    weights = Weights(alpha=2.0, beta=3.0, gamma=5.0, epsilon=7.0, eta=11.0)
    assert float(repbend_loss(Terms(one, one, one, one, one), weights)) == 2.0 - 3.0 + 5.0 + 7.0 + 11.0


def test_descending_the_cosine_term_aligns_unsafe_texts() -> None:
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = unsafe_cosine([states])
    before.backward()
    assert states.grad is not None
    after = unsafe_cosine([(states - 0.5 * states.grad).detach()])
    assert after < before
    assert float(unsafe_cosine([torch.ones(3, 4)])) == pytest.approx(0.0, abs=1e-6)


def test_cosine_term_of_a_single_text_is_zero() -> None:
    states = torch.ones(1, 4, requires_grad=True)
    term = unsafe_cosine([states])
    term.backward()
    assert float(term.detach()) == 0.0


def test_states_beyond_the_limit_have_no_gradient() -> None:
    reference = torch.zeros(2, 3)
    adapted = torch.tensor([[30.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    term = unsafe_norm([adapted], [reference], limit=10.0)
    term.backward()
    assert float(term.detach()) == pytest.approx((10.0 + 1.0) / 2)
    assert adapted.grad is not None
    assert adapted.grad.tolist() == [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]
    assert float(unsafe_norm([adapted.detach()], [reference])) == pytest.approx(15.5)


def test_kl_of_the_released_code_grows_with_length_and_the_corrected_one_does_not() -> None:
    tokens = torch.rand(6, generator=torch.Generator().manual_seed(0))
    double = torch.cat([tokens, tokens])
    assert float(retain_kl(double, n_chats=1)) == pytest.approx(2 * float(retain_kl(tokens, n_chats=1)))
    assert float(retain_kl(double, 1, "corrected")) == pytest.approx(float(retain_kl(tokens, 1, "corrected")))
    assert float(retain_kl(tokens, n_chats=3)) == pytest.approx(float(tokens.sum()) / 3)


def test_means_are_taken_per_index() -> None:
    states = torch.tensor([[1.0], [10.0], [3.0], [20.0]])
    assert mean_by_index(states, torch.tensor([4, 7, 4, 7])).tolist() == [[2.0], [15.0]]


@pytest.fixture(scope="module")
def data() -> TrainingExamples:
    return load_training_examples(tokenizer(), *tables(), max_length=64)


def texts_of_step(data: TrainingExamples, **changes: Any) -> dict[str, list[Example]]:
    """Return the texts of one step by the first name of their positions."""
    objective = RepBend(settings(**changes), data, N_LAYERS)
    by_name: dict[str, list[Example]] = {}
    for example in objective.texts(data.step(0, 2, 0), StepInfo(0, 6, 2)):
        by_name.setdefault(next(iter(example.positions)), []).append(example)
    return by_name


def test_both_answers_of_a_pair_are_in_one_group(data: TrainingExamples) -> None:
    texts, pairs = texts_of_step(data), data.step(0, 2, 0).pairs
    assert [text.tokens for text in texts["safe"][2:]] == [safe.tokens for safe, _ in pairs]
    assert [text.tokens for text in texts["unsafe"][2:]] == [unsafe.tokens for _, unsafe in pairs]


@pytest.mark.parametrize("mode", ["prompt_last", "request_last", "prompt_all", "request_all"])
def test_prompt_modes_use_no_prompt_in_both_groups(data: TrainingExamples, mode: str) -> None:
    texts, rows = texts_of_step(data, loss_mode=mode), data.step(0, 2, 0)
    assert [text.tokens for text in texts["safe"]] == [row.tokens[: row.n_prompt] for row in rows.safe]
    pairs = [[*pair.tokens[: pair.n_prompt]] for _, pair in rows.pairs]
    names = ("unsafe", "last_prompt") if "last" in mode else ("unsafe",)
    unsafe = [text.tokens for name in names for text in texts[name]]
    assert unsafe == [*(row.tokens[: row.n_prompt] for row in rows.unsafe), *pairs]
    (first, *_) = texts["safe"][0].positions["safe"]
    assert first == (rows.safe[0].n_prompt - 1 if "last" in mode else 0)


def test_released_r_is_the_shortest_paired_answer_of_the_micro_batch_before(data: TrainingExamples) -> None:
    objective = RepBend(settings(loss_mode="response_R"), data, N_LAYERS)
    shortest = [min(20, *(row.n_answer for row in data.step(item, 1, 0).pairs[0])) for item in range(6)]
    assert len(set(shortest)) > 1
    expected = [20, min(shortest[0:2]), min(shortest[2:4])]  # groups of two items, over the steps' borders
    assert [objective.first_tokens(StepInfo(0, 6, items), 2) for items in (2, 4, 6)] == expected
    corrected = settings(loss_mode="response_R", variant="corrected", lora_dropout=0.0)
    assert RepBend(corrected, data, N_LAYERS).first_tokens(StepInfo(0, 6, 6), 2) == 20


def test_released_r_of_eta_is_that_of_the_group_itself(data: TrainingExamples) -> None:
    """The corrected form compares as many tokens as each pair has."""
    pairs = data.step(0, 2, 0).pairs
    own = [min(20, safe.n_answer, unsafe.n_answer) for safe, unsafe in pairs]
    assert own[0] != own[1]
    for variant, expected in (("released_code", [min(own)] * 2), ("corrected", own)):
        block = settings(eta=0.5, variant=variant, lora_dropout=0.0)
        texts = RepBend(block, data, N_LAYERS).texts(data.step(0, 2, 0), StepInfo(0, 6, 2))
        assert [
            len(text.positions["unsafe_of_pair"]) for text in texts if "unsafe_of_pair" in text.positions
        ] == expected


def test_released_prompt_last_moves_prompts_of_single_answers_alone(data: TrainingExamples) -> None:
    """Its loop stops at the number of single answers; the corrected form reads the prompts of pairs, too."""
    for variant, expected in (("released_code", 2), ("corrected", 4)):
        block = settings(loss_mode="prompt_last", variant=variant, lora_dropout=0.0)
        texts = RepBend(block, data, N_LAYERS).texts(data.step(0, 2, 0), StepInfo(0, 6, 2))
        assert sum("unsafe" in text.positions for text in texts) == expected
        assert sum("last_prompt" in text.positions for text in texts) == 4
