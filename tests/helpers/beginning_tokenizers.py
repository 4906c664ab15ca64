"""Byte-level and word-piece tokenizers that put `<s>` in front of each text, or do not."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["Human: User: Assistant: how do I learn what is the best cake", "user assistant system", "[INST] [/INST]"]
BOS = "<s>"


def tokenizer(begins: bool = True, first_word_space: bool = False, bos: str | None = BOS) -> Any:
    """Return a small BPE; `first_word_space` puts a space before the first word of a text only, as Llama 2's does."""
    pieces = Tokenizer(models.BPE(unk_token=None))
    if first_word_space:
        pieces.normalizer = normalizers.Replace(Regex("\r"), "")
        pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        pieces.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
        alphabet = sorted({*"".join(TEXTS), *map(chr, range(32, 127)), "▁", "\n", "’", "“", "”"})
    else:
        pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        pieces.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[BOS, "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(TEXTS * 4, trainer)
    if begins:
        pieces.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token=bos, eos_token="</s>", pad_token="</s>")
