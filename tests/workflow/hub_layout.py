"""Small checkpoints in the layout of the hub repositories that the papers' studies use."""

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
DEPTH = 32  # blocks, as in the papers' models, so that the target layers of the papers exist


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with a chat template."""
    return train_tokenizer(TEXTS * 4, 330)


def causal_model(folder: Path, kind: str) -> Path:
    """Write a Llama or Mistral as sharded safetensors with an index, the layout of large models."""
    configs = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}
    configuration, model = configs[kind]
    pieces = tokenizer()
    torch.manual_seed(0)
    network = model(
        configuration(**_sizes(len(pieces)), eos_token_id=pieces.eos_token_id, pad_token_id=pieces.pad_token_id)
    )
    network.save_pretrained(folder, max_shard_size="60KB")
    pieces.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def ultra_rm(folder: Path) -> Path:
    """Write UltraRM's layout: `pytorch_model-*.bin` with an index, a Llama under `model.`, `regression_head.weight`."""
    pieces = tokenizer()
    torch.manual_seed(1)
    model = RegressionHead(LlamaConfig(**_sizes(len(pieces)), pad_token_id=pieces.pad_token_id))
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
    pieces.chat_template = None
    pieces.save_pretrained(folder)
    return folder


def sim_cse(folder: Path) -> Path:
    """Write SimCSE's layout: a BERT with its pooler and a vocab.txt."""
    folder.mkdir(parents=True)
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({word for text in TEXTS for word in text.split()}),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary) + 8, **sizes)).save_pretrained(folder)
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
