"""A small reward model trained on preference pairs, started from the weights of a small language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from rebend.config.rewards import TinyReward
from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import whole_directory
from rebend.models.batching import batches_by_length
from rebend.models.chat import conversation_text
from rebend.models.loading import load_tokenizer, stamp
from rebend.models.remote_code import runs_code
from rebend.models.tiny_model import fit, pad_right, plan_batches

HELD_OUT_SHARE = 0.1
_MOST_HELD_OUT = 500  # pairs: enough for an accuracy to two places

Pair = tuple[list[int], list[int]]  # token ids of the chosen and of the rejected conversation


def train_tiny_reward_model(
    base: str | Path, rows: Sequence[Mapping[str, Any]], settings: TinyReward, out: str | Path, checkpoints: Checkpoints
) -> dict[str, float | int]:
    """Train a reward model on preference rows and save it in the folder `out`; return facts for the record.

    The model is the decoder of the folder `base` with a linear head of one output, at the last token of prompt and
    response. Loss: -log σ(r(chosen) - r(rejected)), mean over pairs (Bradley and Terry). Conversations longer than the
    model's context are cut at their beginning. `held_out_accuracy` is the share of held-out pairs whose chosen response
    has the higher reward. A killed training resumes from `checkpoints` and ends in the same bytes. Raises `DataError`
    for fewer than two pairs.
    """
    tokenizer = load_tokenizer(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the head's weights are drawn from the global generator
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, local_files_only=True, trust_remote_code=runs_code(base)
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    train, held_out = _split(encode_pairs(tokenizer, rows, model.config.max_position_embeddings), settings.seed)

    def loss_of(numbers: list[int]) -> torch.Tensor:
        chosen, rejected = rewards(model, [text for number in numbers for text in train[number]]).view(-1, 2).T
        return -functional.logsigmoid(chosen - rejected).mean()

    lengths = [max(len(chosen), len(rejected)) for chosen, rejected in train]
    batches = plan_batches(lengths, settings.batch_size, settings.steps, settings.seed)
    losses = fit(model, loss_of, batches, settings.steps, settings.lr, checkpoints, "training the tiny reward model")
    model.eval()
    with whole_directory(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        stamp(folder)
    return {
        "pairs": len(train),
        "held_out_pairs": len(held_out),
        "held_out_accuracy": round(accuracy(model, held_out), 4),
        "first_loss": round(losses[0], 4),
        "last_loss": round(float(np.mean(losses[-20:])), 4),
    }


def encode_pairs(tokenizer: Any, rows: Sequence[Mapping[str, Any]], context: int) -> list[Pair]:
    """Return the token ids of every pair, each conversation cut to its last `context` tokens."""
    texts = [conversation_text(tokenizer, row["messages"], row[key]) for row in rows for key in ("chosen", "rejected")]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    cut = [conversation[-context:] for conversation in ids]
    return list(zip(cut[::2], cut[1::2], strict=True))


def rewards(model: Any, encoded: Sequence[list[int]]) -> torch.Tensor:
    """Return the rewards [B] of token ids, from the state at the last token of each.

    Padded on the right without an attention mask: a token depends only on tokens to its left.
    """
    tokens = pad_right(encoded, model.config.pad_token_id)
    states = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    last = torch.tensor([len(text) - 1 for text in encoded])
    return model.score(states[torch.arange(len(encoded)), last]).squeeze(-1)


@torch.no_grad()
def accuracy(model: Any, pairs: Sequence[Pair], batch_size: int = 64) -> float:
    """Return the rate of pairs whose chosen conversation has the higher reward; a tie counts as one half."""
    n_right = 0.0
    for batch in batches_by_length([max(map(len, pair)) for pair in pairs], batch_size):
        chosen, rejected = rewards(model, [text for number in batch for text in pairs[number]]).view(-1, 2).T
        n_right += float((chosen > rejected).sum()) + 0.5 * float((chosen == rejected).sum())
    return n_right / len(pairs)


def _split(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Divide the pairs at random into pairs for training and held-out pairs."""
    if len(pairs) < 2:
        raise DataError(f"the preference data set holds {len(pairs)} pairs; at least 2 are needed")
    count = min(_MOST_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(pairs))))
    order = np.random.default_rng([seed, 1]).permutation(len(pairs))
    return [pairs[i] for i in order[count:]], [pairs[i] for i in order[:count]]
