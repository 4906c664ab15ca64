"""Choose the next token: greedily, or by random numbers that belong to one response alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rebend.config.decoding import Decoding


def row_seed(seed: int, key: str) -> int:
    """Return the seed of one response, made from the stage's seed and the response's key."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:7])


def samplers(decoding: Decoding, seeds: Sequence[int], start: int, device: torch.device) -> list[LogitsProcessor]:
    """Return the steps from logits to a choice; none for greedy decoding (temperature 0)."""
    if decoding.temperature == 0:
        return []
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(decoding.temperature))]
    if decoding.top_k:
        steps.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return [*steps, InverseSampler(seeds, decoding.max_new_tokens, start, device)]


class InverseSampler(LogitsProcessor):
    """Sample by inverting the cumulative distribution at one number per row and step.

    The numbers [B, T] are drawn beforehand, each row from its own generator on the CPU, so that a row's
    sample depends on its seed and its own logits only, on any device.
    """

    def __init__(self, seeds: Sequence[int], steps: int, start: int, device: torch.device) -> None:
        rows = [torch.rand(steps, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        self.numbers = (1.0 - torch.stack(rows)).to(device)  # in (0, 1]: a token of probability 0 is never hit
        self.start = start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Take logits [B, V]; return them with all but the chosen token at minus infinity."""
        step = input_ids.shape[1] - self.start
        cumulative = scores.double().softmax(-1).cumsum(-1)
        wanted = self.numbers[:, step, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, wanted)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def turn_tokens(tokenizer: Any, stop: Sequence[str]) -> set[int]:
    """Return the special tokens among the stop texts: decoding leaves them out of a response's text."""
    special = set(tokenizer.all_special_ids)
    return {token for token in tokenizer.convert_tokens_to_ids(list(stop)) if token in special}


class Watch(StoppingCriteria):
    """Ends a row where it begins a new user turn, and knows which rows are still alive."""

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], start: int, ends: Sequence[int], mask: torch.Tensor
    ) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        self.ends, self.turns = frozenset(ends), turn_tokens(tokenizer, stop)
        self.nowhere = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        self.everywhere = torch.arange(len(mask), device=mask.device)
        self.alive = list(range(len(mask)))
        # A token holds at least one byte, so the newest stop text lies within so many tokens.
        self.window = max((len(word.encode()) for word in stop), default=0) + 1
        self.closing = _closing_tokens(tokenizer, tuple(stop))

    def rows(self) -> torch.Tensor:
        """Return which rows are still alive [A], by number; on a GPU all: a fixed shape saves more than they cost."""
        if len(self.alive) == len(self.everywhere) or self.everywhere.device.type != "cpu":
            return self.everywhere
        return torch.tensor(self.alive, dtype=torch.long)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return which rows end here [B]; rows that sampled an end token are ended by `generate` itself."""
        newest = input_ids[:, -1].tolist()
        turned = {row for row in self.alive if newest[row] in self.turns} | self._stopped(input_ids, newest)
        self.alive = [row for row in self.alive if newest[row] not in self.ends and row not in turned]
        if not turned:
            return self.nowhere
        return self.nowhere.index_fill(0, torch.tensor(sorted(turned), device=self.nowhere.device), True)

    def _stopped(self, input_ids: torch.Tensor, newest: Sequence[int]) -> set[int]:
        """Return the rows alive whose text now holds a stop text."""
        near = [row for row in self.alive if self.stop and self.closing[newest[row]]]
        if not near:
            return set()
        first = max(self.start, input_ids.shape[1] - self.window)
        tails = self.tokenizer.batch_decode(input_ids[near, first:], skip_special_tokens=True)
        return {row for row, tail in zip(near, tails, strict=True) if any(word in tail for word in self.stop)}


class _ClosingTokens(dict[int, bool]):
    """Whether a token may complete a stop text, found out when it is first met.

    It may if its own text holds the last letter of one. Letters beyond ASCII can be cut into several tokens, and a
    space can get lost where it begins a text, so with those every token may.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.letters = {word[-1] for word in stop if word}
        self.any_may = any(letter.isspace() or not letter.isascii() for letter in self.letters)

    def __missing__(self, token: int) -> bool:
        text = self.tokenizer.decode([token])
        self[token] = self.any_may or any(letter in text for letter in self.letters)
        return self[token]


@lru_cache(maxsize=8)
def _closing_tokens(tokenizer: Any, stop: tuple[str, ...]) -> _ClosingTokens:
    """Return what is known of a tokenizer's tokens; it stays from batch to batch."""
    return _ClosingTokens(tokenizer, stop)
