"""Find the end of a response: an end token, or the beginning of a new user turn."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import StoppingCriteria

from rebend.models.loading import Policy


def end_tokens(policy: Policy) -> list[int]:
    """Return the tokens that end a response: the tokenizer's EOS and padding, and the checkpoint's EOS tokens."""
    configured = policy.model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    tokenizer_ends = [policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id]
    return sorted({token for token in [*ends, *tokenizer_ends] if token is not None})


def turn_tokens(tokenizer: Any, stop: Sequence[str]) -> set[int]:
    """Return the special tokens among the stop texts. Decoding leaves them out of a response's text."""
    special = set(tokenizer.all_special_ids)
    return {token for token in tokenizer.convert_tokens_to_ids(list(stop)) if token in special}


def cut_response(
    tokenizer: Any, anchor: Sequence[int], ids: Sequence[int], ends: set[int], stop: Sequence[str]
) -> tuple[int, str, str]:
    """Return how many of the generated `ids` belong to the response, its text, and the reason for its end.

    The response ends before the first token of `ends` ("eos"), before the first of the texts `stop` or its special
    token ("turn"), or at the last token ("length"). A token belongs to the response if any of its characters does.
    `anchor` are prompt tokens to decode in front: a tokenizer may drop the space before the first word of a text.
    """

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode([*anchor, *tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    skip = len(decode([]))
    turns = turn_tokens(tokenizer, stop)
    n = next((i for i, token in enumerate(ids) if token in ends or token in turns), len(ids))
    finish = "length" if n == len(ids) else "turn" if ids[n] in turns else "eos"
    text = decode(ids[:n])[skip:]
    cuts = [position for word in stop if (position := text.find(word)) >= 0]
    if not cuts:
        return n, text, finish
    cut = min(cuts)
    n = bisect_left(range(n), cut, key=lambda k: len(decode(ids[:k])) - skip)
    return n, text[:cut], "turn"


def end_token(
    tokenizer: Any, ids: Sequence[int], n: int, finish: str, ends: set[int], stop: Sequence[str]
) -> int | None:
    """Return the token that the model chose after the `n` tokens of a response; None if it chose none.

    `n` and `finish` are those of `cut_response`. Padding after a text of `stop` was not chosen by the model.
    """
    if n == len(ids) or (finish == "turn" and ids[n] in ends and ids[n] not in turn_tokens(tokenizer, stop)):
        return None
    return ids[n]


class StopTexts:
    """Finds responses whose newest token completes a stop text or is a stop text's special token."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.turns = turn_tokens(tokenizer, stop)
        # A token has at least one byte, so the newest stop text lies within this number of tokens.
        self.window = max((len(word.encode()) for word in stop), default=0) + 1
        self.closing = _closing_tokens(tokenizer, tuple(stop))

    def may_complete(self, token: int) -> bool:
        """Return whether a stop text may end with this token."""
        return bool(self.stop) and self.closing[token]

    def in_tails(self, tails: Any) -> list[bool]:
        """Return whether each tail contains a stop text; `tails` are the last `window` tokens of each response."""
        texts = self.tokenizer.batch_decode(tails, skip_special_tokens=True)
        return [any(word in text for word in self.stop) for text in texts]


class StopOnText(StoppingCriteria):
    """Ends a row where it begins a new user turn, and tracks the rows that have not ended."""

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], start: int, ends: Sequence[int], mask: torch.Tensor
    ) -> None:
        self.texts, self.start, self.ends = StopTexts(tokenizer, stop), start, frozenset(ends)
        self.no_row = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        self.every_row = torch.arange(len(mask), device=mask.device)
        self.alive = list(range(len(mask)))

    def rows(self) -> torch.Tensor:
        """Return the numbers of the rows that have not ended [A].

        On a GPU it returns all rows: a fixed shape saves more time than the ended rows cost.
        """
        if len(self.alive) == len(self.every_row) or self.every_row.device.type != "cpu":
            return self.every_row
        return torch.tensor(self.alive, dtype=torch.long)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return the rows that begin a user turn here [B]. `generate` itself ends rows with an end token."""
        newest = input_ids[:, -1].tolist()
        stopped = {row for row in self.alive if newest[row] in self.texts.turns} | self._stopped(input_ids, newest)
        self.alive = [row for row in self.alive if newest[row] not in self.ends and row not in stopped]
        if not stopped:
            return self.no_row
        return self.no_row.index_fill(0, torch.tensor(sorted(stopped), device=self.no_row.device), True)

    def _stopped(self, input_ids: torch.Tensor, newest: Sequence[int]) -> set[int]:
        """Return the rows whose text now contains a stop text."""
        rows = [row for row in self.alive if self.texts.may_complete(newest[row])]
        if not rows:
            return set()
        first = max(self.start, input_ids.shape[1] - self.texts.window)
        stops = self.texts.in_tails(input_ids[rows, first:])
        return {row for row, stop in zip(rows, stops, strict=True) if stop}


class _ClosingTokens(dict[int, bool]):
    """Whether a stop text may end with a token, computed when a token first occurs.

    It may if the token's text contains the last letter of a stop text. A letter beyond ASCII can be split into several
    tokens, and a space at the start of a text can get lost: if a stop text ends with such a letter, every token may.
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
    """Return the closing tokens of a tokenizer and its stop texts. The result is shared by all batches."""
    return _ClosingTokens(tokenizer, stop)
