"""A Llama with random weights whose responses never end, for measurements of decoding."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rebend.models.loading import Policy
from rebend.models.tiny_model import train_tokenizer


def random_llama(**sizes: int | bool) -> Policy:
    """Return the model; `sizes` are those of its configuration."""
    tokenizer = train_tokenizer(["open the lid of the old lamp"] * 4, 330)
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **ends)).eval()
    with torch.no_grad():
        model.lm_head.weight[[tokenizer.eos_token_id, tokenizer.pad_token_id]] = 0.0  # never the largest logit
    return Policy(model, tokenizer, "random")
