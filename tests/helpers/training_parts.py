"""A small base model, safety data and settings for tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from rebend.config.adapters import trained_adapter
from rebend.io.schemas import CHAT, SAFETY
from rebend.models.loading import stamp
from rebend.models.tiny_model import train_tokenizer

N_LAYERS = 3
THINGS = ("a soup", "the old garden gate", "tea", "one very long and winding letter to the town", "bread", "a kite")


def user(text: str) -> list[dict[str, str]]:
    """Return a conversation of one turn."""
    return [{"role": "user", "content": text}]


def samples() -> pa.Table:
    """Return six single answers, alternately safe and unsafe."""
    rows = [
        {
            "row_id": f"s{n}",
            "messages": user(f"how do I make {thing}"),
            "response": f"take {thing} and wait" * (1 + n % 3),
            "label": "unsafe" if n % 2 else "safe",
            "pair": None,
        }
        for n, thing in enumerate(THINGS)
    ]
    return pa.Table.from_pylist(rows, SAFETY)


def pairs() -> pa.Table:
    """Return three prompts with a safe and an unsafe answer each."""
    rows = [
        {
            "row_id": f"p{n}{label}",
            "messages": user(f"tell me how to break {thing}"),
            "response": f"no, I will not break {thing}" if label == "safe" else f"hit {thing} twice",
            "label": label,
            "pair": f"p{n}",
        }
        for n, thing in enumerate(THINGS[:3])
        for label in ("unsafe", "safe")
    ]
    return pa.Table.from_pylist(rows, SAFETY)


def retain() -> pa.Table:
    """Return five chats of different lengths, one of them with two turns."""
    rows = [
        {
            "row_id": f"r{n}",
            "messages": [
                *([*user("good day"), {"role": "assistant", "content": "hello"}] if n == 2 else []),
                *user(f"do you like {thing}"),
                {"role": "assistant", "content": f"yes, {thing} is nice" * (1 + n % 2)},
            ],
        }
        for n, thing in enumerate(THINGS[:5])
    ]
    return pa.Table.from_pylist(rows, CHAT)


def tables() -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return single answers, pairs and retain chats."""
    return samples(), pairs(), retain()


def tokenizer() -> Any:
    """Return a byte-level BPE with chat template, trained on the texts above."""
    texts = [entry["response"] for entry in (samples().to_pylist() + pairs().to_pylist())]
    return train_tokenizer(texts + list(THINGS) * 3, 320)


def configuration(vocab_size: int) -> LlamaConfig:
    """Return the configuration of a Llama with three blocks."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )


def make_base(folder: Path, seed: int = 0, config: Any = None) -> Path:
    """Write a random base model with its tokenizer; without `config`, a Llama."""
    pieces = tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config or configuration(len(pieces)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)  # fresh weights give nearly equal states and logits
    model.save_pretrained(folder)
    pieces.save_pretrained(folder)
    stamp(folder)
    return folder


def settings(**changes: Any) -> Any:
    """Return settings for the small base: the released weights of terms, and a large learning rate."""
    block = {
        "method": "repbend",
        "examples": "samples",
        "paired_examples": "pairs",
        "retain_chats": "retain",
        "target_layer_start_idx": 2,
        "layers_window_size": 2,
        "max_step": 6,
        "batch_size": 2,
        "lr": 1.0e-3,
        "lora_r": 4,
        "lora_alpha": 8,
        "max_length": 64,
    }
    return trained_adapter(block | changes)
