"""Likelihoods by a plain loop over transformers, token by token, and random models with real templates."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rebend.models.loading import Policy
from tests.helpers.template_shapes import SHAPES, shaped_tokenizer

WORDS = ["how do I make tea", "take hot water and leaves", "why is it so", "because it is", "hello there you"]
WITH_BOS, WITHOUT_BOS = "Llama 3", "Qwen2.5"


@functools.cache
def random_policy(shape: str, context: int = 512, seed: int = 0) -> Policy:
    """Return a random Llama of two blocks whose tokenizer has the template of a family; a test must not change it."""
    tokenizer = shaped_tokenizer(SHAPES[shape], WORDS * 4)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=context, initializer_range=0.3, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, **sizes,
    )  # fmt: skip
    return Policy(LlamaForCausalLM(config).eval(), tokenizer, f"{shape}-{seed}")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that has its special tokens in it."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def mean_nll(policy: Policy, before: str, scored: str) -> float:
    """Return the mean negative log-likelihood of the tokens of `scored` behind the text `before`, token by token."""
    start, whole = ids_of(policy.tokenizer, before), ids_of(policy.tokenizer, before + scored)
    assert whole[: len(start)] == start and len(whole) > len(start)
    total = 0.0
    for place in range(len(start), len(whole)):
        with torch.no_grad():
            logits = policy.model(torch.tensor([whole[:place]])).logits[0, -1]
        total -= float(logits.double().log_softmax(-1)[whole[place]])
    return total / (len(whole) - len(start))
