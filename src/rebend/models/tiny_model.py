"""A small Llama trained from random weights on chats, so that the whole graph runs without a download.

Tokenizer, chat template, configuration and weights are saved as an ordinary Hugging Face checkpoint. The chats come
from the built-in tiny world or from real dialogues.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rebend.config.models import TinyModel
from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import whole_directory
from rebend.io.progress import progress
from rebend.models.chat import Message
from rebend.models.loading import stamp

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message.role + '|>' + message.content }}"
    "{%- if message.role == 'assistant' -%}{{ '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
IGNORED = -100  # label of a position that has no loss
_WARM_UP = 0.1  # share of the steps
_POOL = 32  # number of batches in a pool that is sorted by length


def train_tiny_model(
    chats: Sequence[Sequence[Message]], settings: TinyModel, out: str | Path, checkpoints: Checkpoints
) -> dict[str, float | int]:
    """Train tokenizer and model on `chats` and save both in the folder `out`; return facts for the record.

    The loss is the mean cross-entropy (nats) of all tokens, or of the assistant's tokens with `loss: assistant`. Chats
    are cut at `context` tokens. A killed training resumes from `checkpoints` and ends in the same bytes. Raises
    `DataError` if there is no chat of at least two tokens.
    """
    tokenizer = train_tokenizer((turn["content"] for chat in chats for turn in chat), settings.vocab_size)
    sequences, cut = encode_chats(tokenizer, chats, settings.context)
    if not sequences:
        raise DataError("the chat data sets hold no dialogue of at least two tokens; nothing to train on")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # a new model draws its weights from the global generator
        model = LlamaForCausalLM(_configuration(tokenizer, settings))
    vocabulary = tokenizer.get_vocab()
    pad, start, end = (vocabulary[name] for name in (PAD, ASSISTANT, END))

    def loss_of(rows: list[int]) -> torch.Tensor:
        tokens = pad_right([sequences[row] for row in rows], pad)
        counted = tokens.ne(pad)
        if settings.loss == "assistant":
            counted &= assistant_mask(tokens, start, end)
        # Right padding needs no attention mask: a token depends only on tokens to its left.
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        labels = tokens[:, 1:].masked_fill(~counted[:, 1:], IGNORED)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    batches = plan_batches(
        [len(sequence) for sequence in sequences], settings.batch_size, settings.steps, settings.seed
    )
    losses = fit(model, loss_of, batches, settings.steps, settings.lr, checkpoints, "training the tiny model")
    with whole_directory(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        stamp(folder)
    return {
        "chats": len(sequences),
        "chats_cut": cut,
        "parameters": model.num_parameters(),
        "pieces": len(tokenizer),
        "first_loss": round(losses[0], 4),
        "last_loss": round(float(np.mean(losses[-20:])), 4),
    }


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of at most `vocab_size` pieces, with chat template and left padding."""
    special = [PAD, END, SYSTEM, USER, ASSISTANT]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode_chats(tokenizer: Any, chats: Sequence[Sequence[Message]], context: int) -> tuple[list[list[int]], int]:
    """Return the token ids of each chat of two tokens or more, and the number of chats cut at `context`."""
    texts = [tokenizer.apply_chat_template(list(chat), tokenize=False) for chat in chats]
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []
    kept = [chat_ids[:context] for chat_ids in ids if len(chat_ids) > 1]
    return kept, sum(len(chat_ids) > context for chat_ids in ids)


def plan_batches(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield `steps` batches of row numbers; the rows of a batch have similar lengths.

    Each pass over the rows is shuffled and divided into pools of many batches; each pool is sorted by length, and all
    batches are taken in random order. So there is little padding, and the order of rows is still random.
    """
    rng = np.random.default_rng(seed)
    done = 0
    while True:
        order = rng.permutation(len(lengths))
        pools = [order[first : first + _POOL * batch_size] for first in range(0, len(order), _POOL * batch_size)]
        batches = [
            batch
            for pool in pools
            for batch in np.split(sorted(pool, key=lambda row: lengths[row]), range(batch_size, len(pool), batch_size))
        ]
        for number in rng.permutation(len(batches)):
            if done == steps:
                return
            yield [int(row) for row in batches[number]]
            done += 1


def learning_rate(step: int, steps: int, peak: float, warm_up: float = _WARM_UP) -> float:
    """Return the rate of step 0, 1, ...: linear warm-up over this share of the steps, then linear decay."""
    warm = max(1, round(warm_up * steps))
    return peak * min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def fit(
    model: torch.nn.Module,
    loss_of: Callable[[list[int]], torch.Tensor],
    batches: Iterator[list[int]],
    steps: int,
    peak_lr: float,
    checkpoints: Checkpoints,
    description: str,
) -> list[float]:
    """Run AdamW over `batches` and return the loss of each step; resume from a saved state.

    The model stays in train mode. It has no dropout, so only the order of the batches is random.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    state = checkpoints.load() or {"losses": []}
    if state["losses"]:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]

    def current_state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}

    done = len(losses)
    with checkpoints.on_signal():
        for rows in progress(itertools.islice(batches, done, None), description, total=steps, done=done):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(len(losses), steps, peak_lr)
            loss = loss_of(rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            checkpoints.after_step(current_state)
    return losses


def assistant_mask(tokens: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Return [B, T], true for the assistant's tokens: after each `start`, up to and including the next `end`."""
    opened, closed = (tokens == start).cumsum(1), (tokens == end).cumsum(1)
    return ((opened - closed > 0) & (tokens != start)) | (tokens == end)


def pad_right(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return the sequences as one tensor [B, T], filled with `value` on the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=value)


def _configuration(tokenizer: Any, settings: TinyModel) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=8 * round(settings.hidden_size / 3),  # 8/3 of the width, a multiple of 8
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
