"""Each term of RepBend on random models and texts, compared with the plain second version in `repbend_oracle`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench.reference.repbend import ReferenceSettings, ReferenceTrainer
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig

from rebend.config.adapters import RepBendBlock
from rebend.models import log_probs
from rebend.models.loading import Policy
from rebend.models.lora import add_adapter
from rebend.repbend.examples import StepExamples, TrainingExample, TrainingExamples, load_training_examples
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.objective import Loss, StepInfo
from tests.helpers import training_parts
from tests.helpers.repbend_oracle import Oracle, OracleSettings

VOCABULARY, N_LAYERS, PUSHED, BATCH = 40, 3, [1, 2], 2
MODES = ("response_all", "prompt_response", "prompt_all", "prompt_last", "response_R", "response_one")
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGURATIONS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=6),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "gemma2": Gemma2Config(**SHAPE, head_dim=8, sliding_window=6, final_logit_softcapping=3.0, pad_token_id=0),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=6, pad_token_id=0),
    "falcon": FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_kv_heads=2,
        new_decoder_architecture=True,
        alibi=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
}


def settings(**changes: Any) -> RepBendBlock:
    """Return settings with the released weights and without dropout."""
    block = {
        "method": "repbend",
        "examples": "s",
        "paired_examples": "p",
        "retain_chats": "r",
        "lora_dropout": 0.0,
        "lora_r": 4,
    }
    layers = {"target_layer_start_idx": PUSHED[0], "layers_window_size": len(PUSHED)}
    return RepBendBlock.model_validate(block | layers | {"batch_size": BATCH} | changes)


def adapted(kind: str = "llama", seed: int = 0) -> Any:
    """Return a random model in float64 whose adapter has random weights, so that it changes the states."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGURATIONS[kind]).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)  # fresh weights give nearly equal states and logits
    wrapped = add_adapter(Policy(model, None, ""), settings(), range(N_LAYERS)).double()
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return wrapped


def ragged(seed: int, n: int = 2 * BATCH, longest: int = 14) -> TrainingExamples:
    """Return items for two steps; prompts and answers have many lengths, so R differs."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(most: int) -> list[int]:
        count = int(torch.randint(2, most, (1,), generator=generator))
        return torch.randint(1, VOCABULARY, (count,), generator=generator).tolist()

    def row(name: str, prompt: list[int]) -> TrainingExample:
        return TrainingExample(name, prompt + tokens(longest), len(prompt))

    prompts = [tokens(longest) for _ in range(n)]
    return TrainingExamples(
        safe=[row(f"s{i}", tokens(longest)) for i in range(n)],
        unsafe=[row(f"u{i}", tokens(longest)) for i in range(n)],
        pairs=[(row(f"ps{i}", prompt), row(f"pu{i}", prompt)) for i, prompt in enumerate(prompts)],
        retain=[TrainingExample(f"r{i}", tokens(2 * longest), 0) for i in range(n)],
        left_out={},
        padding=3,
    )


def library(model: Any, block: RepBendBlock, data: TrainingExamples, step: int = 1) -> Loss:
    """Return the library's loss of a step."""
    moment = StepInfo(step, block.max_step, (step + 1) * BATCH)
    return RepBend(block, data, N_LAYERS).loss(model, data.step(step, BATCH, block.seed), moment)


def oracle(
    model: Any, block: RepBendBlock, data: TrainingExamples, mode: str, step: int = 1
) -> dict[str, torch.Tensor]:
    """Return the oracle's terms of the same step; `mode` may be a released spelling."""
    weights = (block.alpha, block.beta, block.gamma, block.epsilon, block.eta)
    oracle_settings = OracleSettings(
        mode, block.alpha_mode, block.variant, PUSHED, weights, block.push_limit, data.padding
    )
    rows: StepExamples = data.step(step, BATCH, block.seed)
    before = data.step(step - 1, BATCH, block.seed).pairs if step else []
    return Oracle(model, oracle_settings).terms(rows.safe, rows.unsafe, rows.pairs, rows.retain, before)


def assert_agrees(ours: Loss, expected: dict[str, torch.Tensor], *, eta: bool = False) -> None:
    """Compare each term and the loss, with a relative tolerance of 1e-6; no term is near zero."""
    for name, value in ours.terms.items():
        if name == "pair_norm" and not eta:
            continue  # not computed without a weight
        assert float(expected[name].detach()) > 1e-4, name
        assert float(value.detach()) == pytest.approx(float(expected[name].detach()), rel=1e-6), name
    assert float(ours.total.detach()) == pytest.approx(float(expected["total"].detach()), rel=1e-6)


@pytest.mark.parametrize("variant", ["released_code", "corrected"])
@pytest.mark.parametrize("alpha_mode", ["all", "target"])
@pytest.mark.parametrize("mode", [*MODES, "request_last", "request_all", "request_response"])
def test_each_term_of_each_mode_equals_the_oracles(mode: str, alpha_mode: str, variant: str) -> None:
    eta = 0.7 if mode.startswith("response") or mode.endswith("response") else 0.0
    block = settings(loss_mode=mode, alpha_mode=alpha_mode, variant=variant, eta=eta)
    model, data = adapted(seed=MODES.index(block.loss_mode)), ragged(MODES.index(block.loss_mode))
    assert_agrees(library(model, block, data), oracle(model, block, data, mode), eta=eta > 0)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGURATIONS if kind != "llama"])
@pytest.mark.parametrize("variant", ["released_code", "corrected"])
def test_each_architecture_gives_the_oracles_terms(kind: str, variant: str) -> None:
    block, model, data = settings(variant=variant, eta=0.3), adapted(kind, seed=7), ragged(7)
    assert_agrees(library(model, block, data), oracle(model, block, data, "response_all"), eta=True)


def test_push_limit_equals_the_oracles_if_it_clips_some_tokens() -> None:
    model, data = adapted(), ragged(3)
    free = float(library(model, settings(), data).terms["unsafe_norm"].detach())
    block = settings(push_limit=free)
    ours = library(model, block, data)
    assert float(ours.terms["unsafe_norm"].detach()) < 0.99 * free
    assert_agrees(ours, oracle(model, block, data, "response_all"))


def test_slices_of_three_tokens_give_the_same_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "SLICE_ELEMENTS", 3 * VOCABULARY)
    model, block, data = adapted("gemma2"), settings(), ragged(5)
    assert_agrees(library(model, block, data), oracle(model, block, data, "response_all"))


def test_released_r_is_that_of_the_group_before_and_reads_padding() -> None:
    """R is 20 in the first step, before it is set, and then the shortest paired answer of the group before."""
    block, model = settings(loss_mode="response_R", eta=0.4), adapted()
    answer = list(range(1, 31))
    pairs = [
        (TrainingExample(f"a{n}", [1, 2, *answer[:n]], 2), TrainingExample(f"b{n}", [1, 2, *answer[: n + 3]], 2))
        for n in (4, 9, 17, 25)
    ]
    long = [TrainingExample(f"x{i}", [3, 4, *answer], 2) for i in range(4)]
    data = TrainingExamples(long, long, pairs, [TrainingExample("r", [1, 2, 3], 0)], {}, padding=5)
    order = [pair[0].n_answer for step in range(2) for pair in data.step(step, BATCH, block.seed).pairs]
    assert order == [17, 9, 4, 25]  # answers of both groups are shorter than R, so padding is read
    seen = [20, 9, 4]
    objective = RepBend(block, data, N_LAYERS)
    assert [objective.first_tokens(StepInfo(step, 2, (step + 1) * BATCH), BATCH) for step in range(3)] == seen
    for step in range(2):
        assert_agrees(library(model, block, data, step), oracle(model, block, data, "response_R", step), eta=True)


@pytest.mark.parametrize("variant", ["released_code", "corrected"])
def test_gradients_of_all_adapter_weights_equal_the_oracles(variant: str) -> None:
    block, model, data = settings(variant=variant, eta=0.3), adapted(seed=11), ragged(11)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    ours = torch.autograd.grad(library(model, block, data).total, list(weights.values()))
    total = oracle(model, block, data, "response_all")["total"]
    expected = torch.autograd.grad(total, list(weights.values()))
    for name, gradient, theirs in zip(weights, ours, expected, strict=True):
        assert float(theirs.norm()) > 1e-6, name
        assert float((gradient - theirs).norm()) < 1e-6 * float(theirs.norm()), name


def test_gradient_equals_a_finite_difference_of_the_loss() -> None:
    block, model, data = settings(), adapted(seed=12), ragged(12)
    weight = next(weight for name, weight in model.named_parameters() if "layers.1" in name and "lora_B" in name)
    (slope,) = torch.autograd.grad(library(model, block, data).total, [weight])
    place, tiny = int(slope.abs().argmax()), 1e-3  # norms of Llama round to float32, so that smaller steps are noise
    ends = []
    for shift in (tiny, -2 * tiny):
        with torch.no_grad():
            weight.view(-1)[place] += shift
        ends.append(float(library(model, block, data).total.detach()))
    assert (ends[0] - ends[1]) / (2 * tiny) == pytest.approx(float(slope.view(-1)[place]), rel=1e-3)


def test_padding_side_of_the_tokenizer_does_not_change_the_loss() -> None:
    totals = []
    for side in ("left", "right"):
        tokenizer = training_parts.tokenizer()
        tokenizer.padding_side = side
        data = load_training_examples(tokenizer, *training_parts.tables(), max_length=64)
        torch.manual_seed(0)
        shape = SHAPE | {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
        policy = Policy(AutoModelForCausalLM.from_config(LlamaConfig(**shape)).double(), tokenizer, "")
        model = add_adapter(policy, settings(), range(N_LAYERS))
        totals.append(library(model, settings(), data, step=0).total.item())
    assert totals[0] == totals[1]


def test_reference_trainer_of_the_benchmark_computes_the_released_loss() -> None:
    """In float32 and with gradient checkpointing, as in the benchmark, at an eighth of the width."""
    block, model, data = settings(), adapted(seed=4).float(), ragged(4)
    layers = {"keep_layers": list(range(N_LAYERS + 1)), "push_layers": PUSHED}
    reference = ReferenceSettings(**layers, pad_token=0, prompt_width=64, response_width=64)
    trainer = ReferenceTrainer(model, reference, lr=1e-3)
    terms = trainer.micro_step(data.step(1, BATCH, block.seed))
    expected = oracle(adapted(seed=4), block, data, "response_all")
    for name, value in terms.items():
        assert float(value.detach()) == pytest.approx(float(expected[name].detach()), rel=1e-4), name
