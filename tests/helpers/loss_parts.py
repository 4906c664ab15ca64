"""Random tensors, plain vector arithmetic and small models for tests of the methods' losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Return random float64 values."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(seed: int, n_layers: int, n_tokens: int, size: int = 5) -> list[Tensor]:
    """Return states of some layers, `[N, D]` each."""
    return [drawn(seed * 100 + layer, n_tokens, size) for layer in range(n_layers)]


def length(vector: list[float]) -> float:
    return math.sqrt(sum(entry * entry for entry in vector))


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / (length(left) * length(right))


def difference(left: list[float], right: list[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]


def log_sigmoid(value: float) -> float:
    return math.log(1 / (1 + math.exp(-value)))


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
    """Give an adapter random weights, so that it changes the model."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.3)
