"""Small configurations of several architectures, for tests of training."""

from __future__ import annotations

from typing import Any

from transformers import FalconConfig, Gemma2Config, MistralConfig, Qwen2Config, Qwen3Config

from tests.helpers.training_parts import configuration

ARCHITECTURES: dict[str, Any] = {
    "llama": configuration(300),
    "mistral": MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6,
    ),
    "qwen2": Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "qwen3": Qwen3Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    ),
    "gemma2": Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5,
    ),
    "falcon": FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=False),
    "falcon-alibi": FalconConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=True,
        new_decoder_architecture=False,
    ),
}  # fmt: skip
