"""Tiny random models, tokenizers and texts of a size that both sides can run in seconds, the same for each run."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = (
    "how do I mend a torn sleeve when the thread is short and the light is poor",
    "Human: User: Assistant:",
    "please tell me about the old kettle",
    "yes, no",
)
TURNS = "<|user|>", "<|assistant|>"


@cache
def tokenizer(end: int, bos: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE whose end token has id `end`, as the released masks ask for one by its number.

    2 is that of Llama 2 and Vicuna, whose 0 is `<unk>`; 11 is Falcon's. With `bos`, encoding puts `<s>` in front.
    """
    special = [f"<|{number}|>" for number in range(max(end, 2) + 1)]
    special[0], special[1], special[end] = "<unk>", "<s>", "</s>"
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*special, *TURNS], initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(WORDS * 4, trainer)
    if bos:
        pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        bos_token="<s>" if bos else None,  # Falcon's tokenizer has none
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        additional_special_tokens=list(TURNS),
        clean_up_tokenization_spaces=False,
    )


def llama(end: int = 2, seed: int = 0, scale: float = 3.0, **changes: Any) -> Any:
    """Return a random Llama of three blocks in float64, in eval mode, that generates greedily.

    Fresh weights give nearly equal states and logits, so they are multiplied by `scale`.
    """
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer(end)),
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=end,
        bos_token_id=1,
        tie_word_embeddings=False,
        attn_implementation="sdpa",  # the plain one has its softmax in float32: NaN at positions of padding
        **{**sizes, **changes},
    )
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(scale)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = 0 if end == 2 else end
    return model


def often_ending(model: Any, end: int, strength: float = 1.0) -> Any:
    """Make the end token likelier, so that responses have many lengths: its row becomes a mean of all rows, larger."""
    with torch.no_grad():
        rows = model.lm_head.weight
        rows[end] = strength * rows.std() * torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(5))
    return model


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, gzipped or not. Raises `FileNotFoundError`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of real data")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.decode().split("\n") if line.strip()]


def short_prompts(n: int) -> list[str]:
    """Return `n` short prompts of different lengths."""
    words = WORDS[0].split()
    return [" ".join(words[i % 5 : i % 5 + 3 + i % 7]) for i in range(n)]
