"""Small checkpoints in the exact layout of the hub repositories that the papers' studies name."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from rebend.models.rewards.model import RegressionHead
from rebend.models.tiny_model import train_tokenizer

TEXTS = ["how do I open a jar of tea", "a jar is opened by turning its lid", "I cannot help with that", "is it late"]
DEPTH = 32  # as many blocks as the papers' models, so that their target layers are the real ones


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a chat template."""
    return train_tokenizer(TEXTS * 4, 330)


def causal_model(folder: Path, kind: str) -> Path:
    """Llama or Mistral with sharded safetensors and an index, as large models come."""
    configs = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}
    configuration, model = configs[kind]
    words = tokenizer()
    torch.manual_seed(0)
    made = model(configuration(**_sizes(len(words)), eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id))
    made.save_pretrained(folder, max_shard_size="60KB")
    words.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def ultra_rm(folder: Path) -> Path:
    """UltraRM: `pytorch_model-*.bin` files with an index, a Llama body under `model.`, `regression_head.weight`."""
    words = tokenizer()
    torch.manual_seed(1)
    model = RegressionHead(LlamaConfig(**_sizes(len(words)), pad_token_id=words.pad_token_id))
    weights = model.state_dict()
    folder.mkdir(parents=True)
    names = sorted(weights)
    files = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in files.items():
        torch.save({name: weights[name].clone() for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    model.config.architectures = ["LlamaRewardModel"]
    model.config.save_pretrained(folder)
    words.chat_template = None
    words.save_pretrained(folder)
    return folder


def sim_cse(folder: Path) -> Path:
    """SimCSE: a BERT with its pooler and a vocab.txt."""
    folder.mkdir(parents=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in TEXTS for word in text.split()})]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(pieces) + 8, **sizes)).save_pretrained(folder)
    return folder


def _sizes(vocab_size: int) -> dict[str, int]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    }
