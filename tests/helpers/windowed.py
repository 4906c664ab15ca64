"""Small random models of several architectures, some with a sliding window that prompts go beyond."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.cohere2 import Cohere2Config
from transformers.models.falcon import FalconConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.mixtral import MixtralConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from rebend.models.loading import Policy
from tests.helpers.small_policy import tokenizer

WINDOW = 5  # positions; most prompts of `small_policy.PROMPTS`, and all with a response, are longer
_VOCABULARY = len(tokenizer())
SIZES: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": tokenizer().eos_token_id,
    "pad_token_id": tokenizer().pad_token_id,
    "tie_word_embeddings": False,
}
KV: dict[str, Any] = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
WINDOWED: dict[str, Any] = {**KV, "sliding_window": WINDOW}
MIXED: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 1}  # the first layer sees all positions
ARCHITECTURES: dict[str, Any] = {
    "llama": LlamaConfig(**KV),
    "mistral": MistralConfig(**WINDOWED),
    "mistral without a window": MistralConfig(**{**WINDOWED, "sliding_window": None}),
    "mixtral": MixtralConfig(**WINDOWED, num_local_experts=2),
    "qwen2": Qwen2Config(**KV),
    "qwen2 with windows": Qwen2Config(**WINDOWED, **MIXED),
    "qwen3": Qwen3Config(**KV, head_dim=8),
    "qwen3 with windows": Qwen3Config(**WINDOWED, **MIXED, head_dim=8),
    "gemma2": Gemma2Config(**WINDOWED, head_dim=8, final_logit_softcapping=5.0),
    "gemma3": Gemma3TextConfig(**WINDOWED, head_dim=8, layer_types=["sliding_attention"] * 2 + ["full_attention"]),
    "gemma3, windows only": Gemma3TextConfig(**WINDOWED, head_dim=8, layer_types=["sliding_attention"] * 3),
    "phi3": Phi3Config(**WINDOWED),
    "cohere2": Cohere2Config(**WINDOWED, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "falcon": FalconConfig(**SIZES, alibi=False),
}
HAS_WINDOW = [name for name, config in ARCHITECTURES.items() if getattr(config, "sliding_window", None)]


def windowed_policy(name: str) -> Policy:
    """Return a random policy of an architecture. Its configuration is a copy, which a test may change."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES[name])).eval().requires_grad_(False)
    return Policy(model, tokenizer(), name)
