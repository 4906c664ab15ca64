"""Negative log-likelihoods of given tokens in given texts, in batches of a limited number of tokens.

Beside the weights, the memory of a pass is that of the states of one batch, [B, T, D] and the wider ones inside a
block, and of the logits of one slice of tokens (`rebend.models.log_probs`, 16 MiB in float32 and two copies): never of
[B, T, V]. No cache is kept. Only a text longer than `BATCH_TOKENS` makes a larger batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rebend.io.chunks import ChunkStore
from rebend.io.memory import memory_advice
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length
from rebend.models.loading import Policy
from rebend.models.log_probs import token_logps

BATCH_TOKENS = 4096  # of a batch, with padding
_BATCHES_PER_CHUNK = 8


@dataclass(frozen=True)
class ScoredText:
    """The tokens of one text, and the positions of the tokens to score; none of them is 0, which nothing precedes."""

    tokens: Sequence[int]
    scored: Sequence[int]


def total_nlls(policy: Policy, texts: Sequence[ScoredText], chunks: ChunkStore | None = None) -> list[float]:
    """Return the sum of the negative log-likelihoods (nats) of the scored tokens of each text; NaN if it is no number.

    Log-probabilities are those of the model's own distribution (temperature 1), in float32 at least. Texts of similar
    length share a batch, padded on the right; a token depends only on tokens to its left, so neither padding nor batch
    has an effect beyond rounding. Finished groups of batches are kept in `chunks`. Raises `ModelError` if memory runs
    out.
    """
    chunks = chunks or ChunkStore(None)
    lengths = [len(text.tokens) for text in texts]
    batches = batches_by_length(lengths, max(1, len(lengths)), most=BATCH_TOKENS)
    groups = [batches[i : i + _BATCHES_PER_CHUNK] for i in range(0, len(batches), _BATCHES_PER_CHUNK)]
    totals = [0.0] * len(texts)
    with memory_advice("a model of a smaller dtype, or shorter texts"):
        for number, group in enumerate(progress(groups, "scoring tokens", total=len(groups))):

            def make(group: list[list[int]] = group) -> list[list[float]]:
                return [_batch_nlls(policy, [texts[i] for i in batch]) for batch in group]

            for batch, found in zip(group, chunks.get_or_make(f"nll-{number:05d}", make), strict=True):
                for i, total in zip(batch, found, strict=True):
                    totals[i] = total
    return totals


@torch.no_grad()
def _batch_nlls(policy: Policy, texts: Sequence[ScoredText]) -> list[float]:
    """Return the sums [B] of one batch."""
    longest = max(len(text.tokens) for text in texts)
    pad, device = policy.tokenizer.pad_token_id, policy.device
    ids = torch.tensor([[*text.tokens, *[pad] * (longest - len(text.tokens))] for text in texts], device=device)
    rows = torch.tensor([row for row, text in enumerate(texts) for _ in text.scored], dtype=torch.long)
    places = torch.tensor([place for text in texts for place in text.scored], dtype=torch.long)
    states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logps = token_logps(policy.model, states[rows, places - 1], ids[rows, places]).double().cpu()
    return torch.zeros(len(texts), dtype=torch.float64).index_add(0, rows, -logps).tolist()
