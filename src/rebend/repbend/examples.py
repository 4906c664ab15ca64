"""The rows that adapters are trained on: tokenised once, and which of them a step sees.

A training item joins four things: a safe sample, an unsafe sample, a pair (a safe and an unsafe answer to one
prompt) and a retain chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rebend.errors import DataError, ModelError
from rebend.models.chat import Message, conversation_text, prompt_text

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A text as tokens: `n_prompt` of the prompt, then the answer's (of a chat: all, with `n_prompt` = 0)."""

    row_id: str
    tokens: list[int]
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Number of tokens of the answer."""
        return len(self.tokens) - self.n_prompt


@dataclass(frozen=True)
class StepRows:
    """The B items of a step, or of one group of it: lists of the same length."""

    safe: list[Row]
    unsafe: list[Row]
    pairs: list[tuple[Row, Row]]  # safe and unsafe answer to one prompt
    retain: list[Row]

    def groups(self, size: int) -> Iterator[StepRows]:
        """Yield the items in groups of `size`."""
        for start in range(0, len(self.retain), size):
            part = slice(start, start + size)
            yield StepRows(self.safe[part], self.unsafe[part], self.pairs[part], self.retain[part])

    def ids(self) -> list[str]:
        """Row ids, for messages."""
        paired = [row for pair in self.pairs for row in pair]
        return [row.row_id for row in (*self.safe, *self.unsafe, *paired, *self.retain)]


@dataclass(frozen=True)
class TrainingExamples:
    """All training rows, tokenised; `left_out` counts what could not be used, by reason."""

    safe: list[Row]
    unsafe: list[Row]
    pairs: list[tuple[Row, Row]]
    retain: list[Row]
    left_out: dict[str, int]

    def step(self, number: int, batch_size: int, seed: int) -> StepRows:
        """Return the items of step `number` (from 0): a function of its arguments alone, so resuming needs no state.

        Each of the four lists is gone through in a random order of its own, another one in each epoch.
        """
        places = range(number * batch_size, (number + 1) * batch_size)
        return StepRows(
            _drawn(self.safe, places, seed, stream=0),
            _drawn(self.unsafe, places, seed, stream=1),
            _drawn(self.pairs, places, seed, stream=2),
            _drawn(self.retain, places, seed, stream=3),
        )


def load_training_examples(
    tokenizer: Any, samples: pa.Table, pairs: pa.Table, retain: pa.Table, max_length: int, *, ended: bool = False
) -> TrainingExamples:
    """Tokenise the three tables (schemas SAFETY, SAFETY, CHAT). One table may serve as samples and pairs: its
    rows without a `pair` are the samples, or all of them if it holds nothing but pairs.

    The prompt is written by the chat template up to where the model answers. The answer follows as plain text
    without an end-of-turn token, as RepBend was published; or, with `ended`, as the template ends it. Answers are
    cut at `max_length` tokens and chats at twice that. Rows with a longer prompt are left out, because cutting one
    takes either the request or the turn of the model away; so are rows with an empty answer. Raises `DataError` if
    a class, the pairs or the chats are missing.
    """
    reader = AnswerReader(tokenizer, max_length, ended=ended)
    entries = samples.to_pylist()
    single = [entry for entry in entries if entry["pair"] is None] or entries
    singles = [(entry["label"], reader.answer(entry)) for entry in single]
    data = TrainingExamples(
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


class AnswerReader:
    """Turns table entries into rows and counts those that it cannot use."""

    def __init__(self, tokenizer: Any, max_length: int, *, ended: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.ended = ended
        self.left_out = {"prompt too long": 0, "empty answer": 0}

    def answer(self, entry: dict[str, Any]) -> Row | None:
        """A safety entry: prompt through the template, then the answer, bare or ended by the template."""
        text = prompt_text(self.tokenizer, entry["messages"])
        prompt, response = self._encode(text), self._encode(self._response(entry, text))[: self.max_length]
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

    def _response(self, entry: dict[str, Any], prompt: str) -> str:
        answer = entry["response"] or ""
        if not self.ended or not answer:
            return answer
        whole = conversation_text(self.tokenizer, entry["messages"], answer)
        if not whole.startswith(prompt + answer):
            raise ModelError("the chat template does not continue its own prompt with the answer as it is")
        return whole.removeprefix(prompt)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _drawn(rows: list[T], places: Iterable[int], seed: int, stream: int) -> list[T]:
    """Rows that stand at `places` of an endless sequence of shuffled epochs."""
    found = []
    for place in places:
        epoch, within = divmod(place, len(rows))
        found.append(rows[_shuffled(len(rows), seed, stream, epoch)[within]])
    return found


@lru_cache(maxsize=8)
def _shuffled(n_rows: int, seed: int, stream: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(n_rows)
