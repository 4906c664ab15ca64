"""Soft tokens against a plain loop over single prompts, on random models of several architectures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from rebend.config.safety import EmbeddingBlock
from rebend.errors import ModelError
from rebend.evaluation.attacks.soft_tokens import (
    SoftPrompt,
    drawn_tokens,
    embedded,
    optimise,
    split_prompt,
    start_tokens,
    with_soft_tokens,
)
from rebend.models.chat import prompt_text
from rebend.models.loading import Policy
from tests.helpers.small_policy import PROMPTS, make_policy, tokenizer

TARGETS = ["First take the lamp,", "Sure", "yes, here is what one may do with it", "no"] * 2
SIZES = {"vocab_size": len(tokenizer()), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KV = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES = {
    "llama": LlamaConfig(**SIZES, intermediate_size=64),
    "mistral": MistralConfig(**KV, sliding_window=16),
    "gemma2": Gemma2Config(**KV, sliding_window=16, final_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "falcon": FalconConfig(**SIZES, alibi=False),
    "qwen2": Qwen2Config(**SIZES, intermediate_size=64, num_key_value_heads=2),
    "qwen3": Qwen3Config(**KV),
    "gemma3": Gemma3TextConfig(**KV, sliding_window=16, query_pre_attn_scalar=8),
    "phi3": Phi3Config(**SIZES, intermediate_size=64, num_key_value_heads=2, pad_token_id=0),
}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy(dtype=torch.float64)


def attack(**changed: Any) -> EmbeddingBlock:
    return EmbeddingBlock(method="embedding", **{"n_tokens": 5, "steps": 12, "lr": 0.3, "stop_loss": 0.0, **changed})


def places(policy: Policy, n: int = len(PROMPTS)) -> list[SoftPrompt]:
    return [split_prompt(policy.tokenizer, m, t) for m, t in zip(PROMPTS[:n], TARGETS[:n], strict=True)]


def starts(policy: Policy, settings: EmbeddingBlock, n: int = len(PROMPTS)) -> Tensor:
    return torch.stack([start_tokens(policy, settings.start, settings.n_tokens)] * n)


def plain_loss(policy: Policy, place: SoftPrompt, soft: Tensor) -> Tensor:
    """Mean negative log-likelihood of the target: one prompt, whole sequence, all logits, no cache."""
    inputs = torch.cat([with_soft_tokens(policy, place, soft), embedded(policy, place.target)])
    logits = policy.model(inputs_embeds=inputs[None], use_cache=False).logits[0]
    return cross_entropy(logits[-len(place.target) - 1 : -1], torch.tensor(place.target))


def plain_attack(
    policy: Policy, place: SoftPrompt, start: Tensor, settings: EmbeddingBlock
) -> tuple[Tensor, list[float]]:
    """Return the soft tokens and losses of gradient descent on one prompt, by torch's own optimiser."""
    soft = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([soft], lr=settings.lr)
    losses = []
    for step in range(settings.steps + 1):
        loss = plain_loss(policy, place, soft)
        losses.append(loss.item())
        if loss.item() <= settings.stop_loss or step == settings.steps:
            break
        (soft.grad,) = torch.autograd.grad(loss, soft)
        optimiser.step()
    return soft.detach(), losses


def test_prompt_is_split_directly_after_the_users_text() -> None:
    turns = [*PROMPTS[0], {"role": "assistant", "content": "so"}, {"role": "user", "content": "and how do I fold it"}]
    for messages in (*PROMPTS, turns):
        place = split_prompt(tokenizer(), messages, "Sure")
        whole = tokenizer()(prompt_text(tokenizer(), messages), add_special_tokens=False)["input_ids"]
        assert place.before + place.after == whole
        assert tokenizer().decode(place.before).endswith(messages[-1]["content"])
        assert tokenizer().decode(place.after) == "<|assistant|>"
        assert tokenizer().decode(place.target) == "Sure"


def test_token_that_spans_the_split_is_split() -> None:
    joined = copy_with_template("{% for m in messages %}{{ m.content }}{% endfor %}ow")
    place = split_prompt(joined, [{"role": "user", "content": "say h"}], "Sure")
    assert joined.decode(place.before) == "say h"
    assert joined.decode(place.after) == "ow"


def copy_with_template(template: str) -> Any:
    changed = copy.deepcopy(tokenizer())
    changed.chat_template = template
    return changed


@pytest.mark.parametrize("template", ["{{ messages[-1].content[:3] }}", "{{ messages[-1].content * 2 }}"])
def test_template_that_does_not_write_the_users_text_once_raises_model_error(template: str) -> None:
    with pytest.raises(ModelError, match="soft tokens"):
        split_prompt(copy_with_template(template), PROMPTS[0], "Sure")


def check_against_plain(policy: Policy, settings: EmbeddingBlock, tolerance: float) -> list[int]:
    """Compare losses and soft tokens of a batch with the plain loop, and return the numbers of steps."""
    steps = []
    for path, place in zip(
        optimise(policy, places(policy), starts(policy, settings), settings), places(policy), strict=True
    ):
        soft, losses = plain_attack(policy, place, start_tokens(policy, settings.start, 5), settings)
        assert path.losses == pytest.approx(losses, rel=tolerance)
        torch.testing.assert_close(path.points[-1], soft, rtol=tolerance, atol=tolerance)
        steps.append(len(losses) - 1)
    return steps


def test_sgd_steps_equal_a_plain_loop_over_single_prompts(policy: Policy) -> None:
    # No smaller tolerance: the norms of the model are computed in float32 for every dtype.
    steps = check_against_plain(policy, attack(lr=0.1, steps=25, stop_loss=4.0), 1e-5)
    assert max(steps) == 25 and len(set(steps)) > 2  # prompts stop at different steps, some at the last step


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_losses_of_every_architecture_equal_those_without_cache(name: str) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    check_against_plain(Policy(model, tokenizer(), ""), attack(steps=3), 1e-4)


def test_soft_tokens_do_not_depend_on_the_batch(policy: Policy) -> None:
    settings = attack(update="sign", lr=0.02, stop_loss=3.0)
    together = optimise(policy, places(policy), starts(policy, settings), settings)
    for path, place in zip(together, places(policy), strict=True):
        (alone,) = optimise(policy, [place], starts(policy, settings, 1), settings)
        assert path.losses == pytest.approx(alone.losses, abs=1e-9)
        torch.testing.assert_close(path.points[-1], alone.points[-1], rtol=0, atol=1e-9)


def test_sign_steps_have_the_same_size_in_every_coordinate(policy: Policy) -> None:
    settings = attack(update="sign", lr=0.07, steps=1)
    (path,) = optimise(policy, places(policy, 1), starts(policy, settings, 1), settings)
    moved = (path.points[0] - starts(policy, settings, 1)[0]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.07))


def test_points_are_kept_after_equal_shares_of_the_steps(policy: Policy) -> None:
    settings = attack(steps=9, generations=3)
    paths = optimise(policy, places(policy, 2), starts(policy, settings, 2), settings)
    for path, place in zip(paths, places(policy, 2), strict=True):
        assert len(path.points) == 3 and len(path.losses) == 10
        for point, step in zip(path.points, (3, 6, 9), strict=True):
            assert plain_loss(policy, place, point).item() == pytest.approx(path.losses[step], abs=1e-9)
    done = attack(steps=9, generations=3, stop_loss=1e9)
    (path,) = optimise(policy, places(policy, 1), starts(policy, done, 1), done)
    assert len(path.losses) == 1
    assert all(torch.equal(point, starts(policy, done, 1)[0]) for point in path.points) and len(path.points) == 3


def test_prompt_with_a_loss_that_is_not_finite_does_not_stop_others(policy: Policy) -> None:
    settings = attack()
    broken = starts(policy, settings, 3)
    broken[1] = torch.inf
    found = optimise(policy, places(policy, 3), broken, settings)
    sound = optimise(policy, places(policy, 3), starts(policy, settings, 3), settings)
    assert len(found[1].losses) == 1 and not torch.isfinite(torch.tensor(found[1].losses[0]))
    for i in (0, 2):
        assert found[i].losses == pytest.approx(sound[i].losses, abs=1e-9)


def test_step_to_a_loss_that_is_not_finite_is_undone(policy: Policy) -> None:
    settings = attack(lr=1e308, steps=4, generations=2)
    (path,) = optimise(policy, places(policy, 1), starts(policy, settings, 1), settings)
    assert not torch.isfinite(torch.tensor(path.losses[-1]))
    for point in path.points:
        assert torch.isfinite(plain_loss(policy, places(policy, 1)[0], point))


def test_weights_are_unchanged_and_trainable_afterwards(policy: Policy) -> None:
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    optimise(policy, places(policy, 2), starts(policy, attack(), 2), attack())
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in policy.model.parameters())


def test_soft_tokens_of_a_half_precision_model_are_float32() -> None:
    half = make_policy(dtype=torch.bfloat16)
    settings = attack(update="sign", lr=1e-4, steps=4)  # far below bfloat16's resolution of most embeddings
    (path,) = optimise(half, places(half, 1), starts(half, settings, 1), settings)
    assert path.points[0].dtype == torch.float32
    assert not torch.equal(path.points[0], starts(half, settings, 1)[0].float())


def test_start_tokens_are_from_a_text_or_random_ordinary_tokens(policy: Policy) -> None:
    ids = tokenizer()("a lamp", add_special_tokens=False)["input_ids"]
    expected = embedded(policy, [ids[i % len(ids)] for i in range(7)])
    assert torch.equal(start_tokens(policy, "a lamp", 7), expected)
    drawn = drawn_tokens(policy, 3, 200)
    assert torch.equal(drawn, drawn_tokens(policy, 3, 200)) and not torch.equal(drawn, drawn_tokens(policy, 4, 200))
    for special in tokenizer().all_special_ids:
        assert not (drawn == embedded(policy, [special])).all(1).any()
