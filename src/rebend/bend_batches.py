"""The rows that RepBend trains on: tokens, target tokens, which rows a step sees, and batches of them.

A training item joins four things: a safe sample, an unsafe sample, a pair (a safe and an unsafe answer to one
prompt) and a retain chat. The safe group is made of safe samples and safe answers of pairs, the unsafe group
of unsafe samples and unsafe answers to the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebend.errors import DataError
from rebend.prompts import Message, conversation_text, prompt_text

T = TypeVar("T")
LossMode = Literal["response_all", "prompt_response", "prompt_all", "prompt_last"]
MAX_PADDING = 0.08  # share of a batch that may be padding; less makes more and smaller batches


@dataclass(frozen=True)
class Row:
    """A text as tokens: `n_prompt` of the prompt, then the answer's (of a chat: all, with `n_prompt` = 0)."""

    row_id: str
    tokens: list[int]
    n_prompt: int

    def cut_for(self, mode: LossMode) -> Row:
        """Without the answer where the mode looks at the prompt alone: later tokens cannot change its states."""
        return Row(self.row_id, self.tokens[: self.n_prompt], self.n_prompt) if mode in PROMPT_MODES else self

    def targets(self, mode: LossMode) -> range:
        """Positions of the tokens at which states are compared."""
        first = {"response_all": self.n_prompt, "prompt_last": self.n_prompt - 1}.get(mode, 0)
        last = self.n_prompt if mode in PROMPT_MODES else len(self.tokens)
        return range(first, last)


PROMPT_MODES = ("prompt_all", "prompt_last")


@dataclass(frozen=True)
class BendData:
    """All training rows, tokenised; `left_out` counts what could not be used, by reason."""

    safe: list[Row]
    unsafe: list[Row]
    pairs: list[tuple[Row, Row]]
    retain: list[Row]
    left_out: dict[str, int]

    def step(self, number: int, batch_size: int, mode: LossMode, seed: int) -> StepRows:
        """Return the rows of step `number` (from 0): a function of its arguments alone, so resuming needs no state.

        Each of the four lists is gone through in a random order of its own, another one in each epoch.
        Where the mode looks at prompts alone, the prompts of pairs are unsafe rows only, as published: the
        same prompt cannot be kept and pushed.
        """
        places = range(number * batch_size, (number + 1) * batch_size)
        safe = _drawn(self.safe, places, seed, stream=0)
        unsafe = _drawn(self.unsafe, places, seed, stream=1)
        pairs = _drawn(self.pairs, places, seed, stream=2)
        paired_safe = [] if mode in PROMPT_MODES else [pair[0] for pair in pairs]
        return StepRows(
            [row.cut_for(mode) for row in (*safe, *paired_safe)],
            [row.cut_for(mode) for row in (*unsafe, *(pair[1] for pair in pairs))],
            _drawn(self.retain, places, seed, stream=3),
        )


@dataclass(frozen=True)
class StepRows:
    """The rows of one optimiser step, B or 2B of each group."""

    safe: list[Row]
    unsafe: list[Row]
    retain: list[Row]

    def ids(self) -> list[str]:
        """Row ids of the step, for messages."""
        return [row.row_id for rows in (self.safe, self.unsafe, self.retain) for row in rows]


@dataclass(frozen=True)
class Batch:
    """Rows of about one length, of any group, padded on the right to the longest.

    Real tokens of a causal model never see what is to their right, so no attention mask is needed. What the
    terms look at is given as positions in the flattened `[B * T]`, and padding is never among them.
    """

    tokens: Tensor  # [B, T]
    safe: Tensor  # target tokens of safe rows
    unsafe: Tensor  # target tokens of unsafe rows
    ends: Tensor  # last prompt token of each unsafe row
    retain: Tensor  # all tokens of retain rows


def load_bend_data(tokenizer: Any, samples: pa.Table, pairs: pa.Table, retain: pa.Table, max_length: int) -> BendData:
    """Tokenise the three tables (schemas SAFETY, SAFETY, CHAT). One table may serve as samples and pairs: its
    rows without a `pair` are the samples, or all of them if it holds nothing but pairs.

    The prompt is written by the chat template up to where the model answers. The answer follows as plain text
    without an end-of-turn token, as published. Answers are cut at `max_length` tokens and chats at twice that.
    Rows with a longer prompt are left out, because cutting one takes either the request or the turn of the
    model away; so are rows with an empty answer. Raises `DataError` if a class, the pairs or the chats are missing.
    """
    reader = AnswerReader(tokenizer, max_length)
    entries = samples.to_pylist()
    single = [entry for entry in entries if entry["pair"] is None] or entries
    singles = [(entry["label"], reader.answer(entry)) for entry in single]
    data = BendData(
        safe=[row for label, row in singles if row and label == "safe"],
        unsafe=[row for label, row in singles if row and label == "unsafe"],
        pairs=reader.pairs(pairs),
        retain=[row for row in map(reader.chat, retain.to_pylist()) if row],
        left_out=reader.left_out,
    )
    for what, rows in (
        ("safe samples (label 'safe')", data.safe),
        ("unsafe samples (label 'unsafe')", data.unsafe),
        ("pairs (a 'safe' and an 'unsafe' answer with the same `pair`)", data.pairs),
        ("retain chats", data.retain),
    ):
        if not rows:
            raise DataError(f"bending needs {what}, but the data has none that can be used; left out: {data.left_out}")
    return data


def batches(rows: StepRows, mode: LossMode, device: torch.device) -> list[Batch]:
    """Sort the rows of all groups by length and cut them into batches of which at most `MAX_PADDING` is padding."""
    tagged = [(group, row) for group in ("safe", "unsafe", "retain") for row in getattr(rows, group)]
    tagged.sort(key=lambda one: -len(one[1].tokens))
    parts: list[list[tuple[str, Row]]] = []
    real = 0
    for group, row in tagged:
        real += len(row.tokens)
        if parts and real >= (1 - MAX_PADDING) * len(parts[-1][0][1].tokens) * (len(parts[-1]) + 1):
            parts[-1].append((group, row))
        else:
            parts.append([(group, row)])
            real = len(row.tokens)
    return [_batch(part, mode, device) for part in parts]


def _batch(rows: Sequence[tuple[str, Row]], mode: LossMode, device: torch.device) -> Batch:
    longest = max(len(row.tokens) for _, row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)  # any token does as padding: nobody looks at it
    places: dict[str, list[int]] = {"safe": [], "unsafe": [], "ends": [], "retain": []}
    for number, (group, row) in enumerate(rows):
        start = number * longest
        tokens[number, : len(row.tokens)] = torch.tensor(row.tokens)
        places[group].extend(start + place for place in row.targets("prompt_response" if group == "retain" else mode))
        if group == "unsafe":
            places["ends"].append(start + row.n_prompt - 1)
    found = {name: torch.tensor(where, dtype=torch.long).to(device) for name, where in places.items()}
    return Batch(tokens.to(device), **found)


def _drawn(rows: Sequence[T], places: Iterable[int], seed: int, stream: int) -> list[T]:
    """Rows that stand at `places` of an endless sequence of shuffled epochs."""
    found = []
    for place in places:
        epoch, within = divmod(place, len(rows))
        found.append(rows[_shuffled(len(rows), seed, stream, epoch)[within]])
    return found


@lru_cache(maxsize=8)
def _shuffled(n_rows: int, seed: int, stream: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(n_rows)


class AnswerReader:
    """Turns table entries into rows and counts those that it cannot use."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.left_out = {"prompt too long": 0, "empty answer": 0}

    def answer(self, entry: dict[str, Any]) -> Row | None:
        """A safety entry: prompt through the template, then the bare answer."""
        prompt = self._encode(prompt_text(self.tokenizer, entry["messages"]))
        response = self._encode(entry["response"] or "")[: self.max_length]
        reason = "prompt too long" if len(prompt) > self.max_length else "" if response else "empty answer"
        if reason:
            self.left_out[reason] += 1
            return None
        return Row(entry["row_id"], prompt + response, len(prompt))

    def chat(self, entry: dict[str, Any]) -> Row | None:
        """A finished conversation; every token of it counts."""
        messages: list[Message] = entry["messages"]
        if not messages or messages[-1]["role"] != "assistant":
            raise DataError(f"retain row '{entry['row_id']}' does not end with an assistant's turn")
        tokens = self._encode(conversation_text(self.tokenizer, messages[:-1], messages[-1]["content"]))
        return Row(entry["row_id"], tokens[: 2 * self.max_length], 0)

    def pairs(self, table: pa.Table) -> list[tuple[Row, Row]]:
        """The two answers to each prompt, in the order in which pairs first appear."""
        found: dict[str, dict[str, Row | None]] = {}
        for entry in table.to_pylist():
            if entry["pair"] is None:
                continue
            answers = found.setdefault(entry["pair"], {})
            if entry["label"] in answers:
                raise DataError(f"pair '{entry['pair']}' has two answers with the label '{entry['label']}'")
            answers[entry["label"]] = self.answer(entry)
        complete = []
        for pair, answers in found.items():
            if set(answers) != {"safe", "unsafe"}:
                raise DataError(f"pair '{pair}' has the labels {sorted(answers)}; it needs 'safe' and 'unsafe'")
            safe, unsafe = answers["safe"], answers["unsafe"]
            if safe and unsafe:
                complete.append((safe, unsafe))
        return complete

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
