"""Divergences and log-probabilities in slices, compared with whole logits and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig

from rebend.models import log_probs
from rebend.models.log_probs import token_kl, token_logps

SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
# After the head, these models do nothing, cap the logits, or scale them.
MODELS = {
    "llama": LlamaConfig(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, final_logit_softcapping=0.5),
    "granite": GraniteConfig(**SHAPE, logits_scaling=4.0),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[request.param]).double().requires_grad_(False)


@pytest.fixture(params=[1, 7, 100])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the number of tokens per slice."""
    monkeypatch.setattr(log_probs, "SLICE_ELEMENTS", 50 * request.param)


def whole_logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Return the logits by the architecture's formula."""
    logits = model.lm_head(states)
    if model.config.model_type == "gemma2":
        return torch.tanh(logits / 0.5) * 0.5
    return logits / (4.0 if model.config.model_type == "granite" else 1.0)


def states(seed: int) -> torch.Tensor:
    return torch.randn(11, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergences_and_their_gradients_equal_those_of_whole_logits(model: Any, temperature: float) -> None:
    new, old, weights = states(0).requires_grad_(), states(1), torch.rand(11, dtype=torch.float64)
    values = token_kl(model, new, old, temperature)
    (gradient,) = torch.autograd.grad((values * weights).sum(), new)
    expected = temperature**2 * kl_div(
        log_softmax(whole_logits(model, new) / temperature, -1),
        log_softmax(whole_logits(model, old) / temperature, -1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    assert torch.allclose(values, expected, rtol=1e-9)
    assert torch.allclose(gradient, torch.autograd.grad((expected * weights).sum(), new)[0], rtol=1e-9)


@pytest.mark.usefixtures("slices")
def test_log_probabilities_and_their_gradients_equal_those_of_whole_logits(model: Any) -> None:
    new, weights = states(0).requires_grad_(), torch.rand(11, dtype=torch.float64)
    following = torch.randint(0, 50, (11,), generator=torch.Generator().manual_seed(2))
    values = token_logps(model, new, following)
    (gradient,) = torch.autograd.grad((values * weights).sum(), new)
    expected = log_softmax(whole_logits(model, new), -1)[torch.arange(11), following]
    assert torch.allclose(values, expected, rtol=1e-9)
    assert torch.allclose(gradient, torch.autograd.grad((expected * weights).sum(), new)[0], rtol=1e-9)


def test_models_forward_is_restored(model: Any) -> None:
    tokens = torch.arange(6)[None]
    before = model(input_ids=tokens).logits
    token_kl(model, states(0), states(1))
    assert torch.equal(model(input_ids=tokens).logits, before)


def test_no_tokens_give_no_divergences(model: Any) -> None:
    assert token_kl(model, states(0)[:0].requires_grad_(), states(1)[:0]).shape == (0,)
