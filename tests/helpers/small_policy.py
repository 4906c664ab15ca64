"""A random Llama of two blocks with a trained tokenizer, for tests of decoding."""

from __future__ import annotations

import functools

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rebend.models.chat import Message
from rebend.models.loading import Policy
from rebend.models.tiny_model import train_tokenizer

PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": text}]
    for text in (
        "how do I open a jar",
        "please tell me how one may clean an old copper kettle without any tool at all",
        "why",
        "what is a lamp made of, and who made it first?",
        "how do I fold a paper boat",
        "name three soft things",
        "is it late",
        "how do I mend a torn sleeve when the thread is short and the light is poor",
    )
]


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with the chat template of the built-in models; a test must not change it."""
    return train_tokenizer([turn["content"] for prompt in PROMPTS for turn in prompt] * 4, 330)


def config(**changes: int) -> LlamaConfig:
    """Return a configuration that fits the tokenizer."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaConfig(
        vocab_size=len(tokenizer()),
        max_position_embeddings=128,
        initializer_range=0.3,  # large, so that responses differ
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
        tie_word_embeddings=False,
        **{**sizes, **changes},
    )


def make_policy(seed: int = 0, dtype: torch.dtype = torch.float32) -> Policy:
    """Return a new policy; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return Policy(LlamaForCausalLM(config()).to(dtype).eval(), tokenizer(), f"fingerprint-{seed}")


def prompt_rows() -> list[dict]:
    """Return rows of a prompts data set."""
    return [{"row_id": f"row{i}", "messages": m, "reference": None, "group": ""} for i, m in enumerate(PROMPTS)]
