"""Training examples: tokenised once, and the examples of each step.

A training item joins four texts: a safe answer, an unsafe answer, a pair (a safe and an unsafe answer to one prompt)
and a retain chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rebend.errors import DataError
from rebend.models.chat import Message, UnwritableError, conversation_text, encode_text, prompt_text
from rebend.models.likelihood.answers import ended_answer

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingExample:
    """A text as tokens: `n_prompt` tokens of the prompt, then the answer. A chat has `n_prompt` = 0."""

    row_id: str
    tokens: list[int]
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Number of tokens of the answer."""
        return len(self.tokens) - self.n_prompt


Pair = tuple[TrainingExample, TrainingExample]  # safe and unsafe answer to one prompt


@dataclass(frozen=True)
class Reading:
    """How a method reads the rows of a data set."""

    end_of_turn: bool = False  # answers end with the token that ends their turn
    cut_prompts: bool = False  # prompts over the limit are cut on the right instead of left out
    prompts_only: bool = False  # answers are not read, so rows without one are used, too


@dataclass(frozen=True)
class StepExamples:
    """The B items of a step, or of one group of it: four lists of length B."""

    safe: list[TrainingExample]
    unsafe: list[TrainingExample]
    pairs: list[Pair]
    retain: list[TrainingExample]

    def groups(self, size: int) -> Iterator[StepExamples]:
        """Yield the items in groups of `size`."""
        for start in range(0, len(self.retain), size):
            part = slice(start, start + size)
            yield StepExamples(self.safe[part], self.unsafe[part], self.pairs[part], self.retain[part])

    def all_safe(self) -> list[TrainingExample]:
        """Return the single safe answers, then the safe answers of pairs."""
        return [*self.safe, *(safe for safe, _ in self.pairs)]

    def all_unsafe(self) -> list[TrainingExample]:
        """Return the single unsafe answers, then the unsafe answers of pairs."""
        return [*self.unsafe, *(unsafe for _, unsafe in self.pairs)]

    def ids(self) -> list[str]:
        """Return the row ids, for messages."""
        paired = [example for pair in self.pairs for example in pair]
        return [example.row_id for example in (*self.safe, *self.unsafe, *paired, *self.retain)]


@dataclass(frozen=True)
class TrainingExamples:
    """All training examples; `left_out` counts the rows that cannot be used, by reason."""

    safe: list[TrainingExample]
    unsafe: list[TrainingExample]
    pairs: list[Pair]
    retain: list[TrainingExample]
    left_out: dict[str, int]
    padding: int = 0  # the tokenizer's EOS, which fills texts in the released code

    def step(self, number: int, batch_size: int, seed: int) -> StepExamples:
        """Return the items of step `number` (from 0). They depend on the arguments only, so resuming needs no state.

        Each of the four lists is traversed in its own random order, with another order in each epoch.
        """
        positions = range(number * batch_size, (number + 1) * batch_size)
        return StepExamples(
            _drawn(self.safe, positions, seed, stream=0),
            _drawn(self.unsafe, positions, seed, stream=1),
            _drawn(self.pairs, positions, seed, stream=2),
            _drawn(self.retain, positions, seed, stream=3),
        )


def load_training_examples(
    tokenizer: Any,
    examples: pa.Table,
    paired_examples: pa.Table,
    retain_chats: pa.Table,
    max_length: int,
    reading: Reading = Reading(),
) -> TrainingExamples:
    """Tokenise the three tables (schemas SAFETY, SAFETY, CHAT).

    One table may serve as `examples` and `paired_examples`: its rows without a `pair` are then the single answers, or
    all rows if every row has one. The chat template writes the prompt, up to the start of the model's answer. The
    answer follows as plain text without an end-of-turn token, as in RepBend's released code; with `end_of_turn`, it
    ends as the template ends it. Answers are cut at `max_length` tokens and chats at twice that. Rows with a longer
    prompt are left out, because a cut prompt would lose the request or the start of the model's turn; with
    `cut_prompts`, they are cut on the right, as in the released code. Rows with turns that the chat template cannot
    write are left out, and rows with an empty answer, unless `prompts_only`. Raises `DataError` if no safe answers,
    unsafe answers, pairs or chats remain.
    """
    encoder = ExampleEncoder(tokenizer, max_length, reading)
    rows = examples.to_pylist()
    single = [row for row in rows if row["pair"] is None] or rows
    encoded = [(row["label"], encoder.answer(row)) for row in single]
    data = TrainingExamples(
        safe=[example for label, example in encoded if example and label == "safe"],
        unsafe=[example for label, example in encoded if example and label == "unsafe"],
        pairs=encoder.pairs(paired_examples),
        retain=[chat for row in retain_chats.to_pylist() if (chat := encoder.chat(row))],
        left_out=encoder.left_out,
        padding=tokenizer.eos_token_id or 0,
    )
    _check_complete(data)
    return data


def _check_complete(data: TrainingExamples) -> None:
    """Raise `DataError` if one of the four lists is empty."""
    for needed, entries in (
        ("safe answers (label 'safe')", data.safe),
        ("unsafe answers (label 'unsafe')", data.unsafe),
        ("pairs (a 'safe' and an 'unsafe' answer with the same `pair`)", data.pairs),
        ("retain chats", data.retain),
    ):
        if not entries:
            raise DataError(
                f"training an adapter needs {needed}, but the data has none that can be used; left out: {data.left_out}"
            )


class ExampleEncoder:
    """Tokenises table rows and counts the rows that it cannot use."""

    def __init__(self, tokenizer: Any, max_length: int, reading: Reading = Reading()) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.reading = reading
        self.left_out = {"prompt too long": 0, "empty answer": 0}

    def answer(self, row: dict[str, Any]) -> TrainingExample | None:
        """Return a row of schema SAFETY as prompt and answer; None, and counted, if it cannot be used.

        Raises `ModelError` for a chat template that loses or changes answers, or that nothing ends an answer with.
        """
        try:
            text = prompt_text(self.tokenizer, row["messages"])
        except UnwritableError as error:
            self._leave_out(error)
            return None
        prompt, answer = self._encode(text), self._answer_tokens(row, text)[: self.max_length]
        too_long = len(prompt) > self.max_length and not self.reading.cut_prompts
        reason = "prompt too long" if too_long else "" if answer or self.reading.prompts_only else "empty answer"
        if reason:
            self.left_out[reason] += 1
            return None
        kept = prompt[: self.max_length]
        return TrainingExample(row["row_id"], kept + answer, len(kept))

    def chat(self, row: dict[str, Any]) -> TrainingExample | None:
        """Return a row of schema CHAT as one text; None, and counted, if the template cannot write its turns.

        Raises `DataError` if its last turn is not the assistant's.
        """
        messages: list[Message] = row["messages"]
        if not messages or messages[-1]["role"] != "assistant":
            raise DataError(f"retain row '{row['row_id']}' does not end with an assistant's turn")
        try:
            text = conversation_text(self.tokenizer, messages[:-1], messages[-1]["content"])
        except UnwritableError as error:
            self._leave_out(error)
            return None
        tokens = self._encode(text)
        return TrainingExample(row["row_id"], tokens[: 2 * self.max_length], 0)

    def pairs(self, table: pa.Table) -> list[Pair]:
        """Return the two answers to each prompt, in the order in which pairs first appear.

        Raises `DataError` for a pair without exactly one safe and one unsafe answer.
        """
        answers: dict[str, dict[str, TrainingExample | None]] = {}
        for row in table.to_pylist():
            if row["pair"] is None:
                continue
            by_label = answers.setdefault(row["pair"], {})
            if row["label"] in by_label:
                raise DataError(f"pair '{row['pair']}' has two answers with the label '{row['label']}'")
            by_label[row["label"]] = self.answer(row)
        return [pair for name, by_label in answers.items() if (pair := _complete_pair(name, by_label))]

    def _leave_out(self, error: UnwritableError) -> None:
        self.left_out[str(error)] = self.left_out.get(str(error), 0) + 1

    def _answer_tokens(self, row: dict[str, Any], prompt: str) -> list[int]:
        answer = row["response"] or ""
        if not self.reading.end_of_turn:
            return self._encode(answer)
        if not answer.strip():
            return []
        return ended_answer(self.tokenizer, row["messages"], prompt, answer, self._encode)

    def _encode(self, text: str) -> list[int]:
        return encode_text(self.tokenizer, text)


def _complete_pair(name: str, by_label: dict[str, TrainingExample | None]) -> Pair | None:
    """Return both answers; None if one of them cannot be used. Raises `DataError` if a label is missing."""
    if set(by_label) != {"safe", "unsafe"}:
        raise DataError(f"pair '{name}' has the labels {sorted(by_label)}; it needs 'safe' and 'unsafe'")
    safe, unsafe = by_label["safe"], by_label["unsafe"]
    return (safe, unsafe) if safe and unsafe else None


def _drawn(entries: list[T], positions: Iterable[int], seed: int, stream: int) -> list[T]:
    """Return the entries at `positions` of an endless sequence of shuffled epochs."""
    drawn = []
    for position in positions:
        epoch, within = divmod(position, len(entries))
        drawn.append(entries[_shuffled(len(entries), seed, stream, epoch)[within]])
    return drawn


@lru_cache(maxsize=8)
def _shuffled(n_entries: int, seed: int, stream: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(n_entries)
