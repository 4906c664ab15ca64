"""Parts shared by all attacks: decoding setup, target text, and attempts per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rebend.config.decoding import Decoding
from rebend.data.readers.rows import CONTEXT_END
from rebend.generation.generate import generate
from rebend.generation.intervention import Control
from rebend.generation.requests import Response
from rebend.io.chunks import ChunkStore
from rebend.models.chat import Message
from rebend.models.loading import Policy

PromptRow = dict[str, Any]  # the columns of EVALUATION
Attempts = list[list[Response | None]]  # per prompt, one response per attempt; None if the prompt exceeds the context


@dataclass(frozen=True)
class AttackSetup:
    """The attacked model with its decoding and control, the store of finished work, and prompts to learn from."""

    policy: Policy
    decoding: Decoding
    control: Control
    parts: ChunkStore
    examples: Sequence[PromptRow] = ()


@dataclass(frozen=True)
class AttackResult:
    """The attacked prompts with their attempts; `notes` contains results of this attack only, e.g. losses."""

    rows: Sequence[PromptRow]
    attempts: Attempts
    prefills: Sequence[str]  # per prompt: text that the attack puts at the beginning of the response
    notes: dict[str, Any] = field(default_factory=dict)


def harmful_rows(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Return the rows with a harmful prompt."""
    return [row for row in rows if row["harmful"]]


def target_of(row: PromptRow, default: str) -> str:
    """Return the target of an attack on a row: the target in the data set, or else `default`."""
    return row["target"] or default


def without_context(row: PromptRow) -> list[Message]:
    """Return the messages of a row, a contextual behaviour of HarmBench without the context before it."""
    *before, last = row["messages"]
    _, end, behaviour = last["content"].rpartition(CONTEXT_END)
    return [*before, {**last, "content": behaviour if end and row["group"] == "contextual" else last["content"]}]


def attempt_key(row: PromptRow, attempt: int) -> str:
    """Return the key of an attempt's random numbers; attempt 0 has the same key as decoding without attempts."""
    return f"{row['row_id']}/{attempt}" if attempt else row["row_id"]


def answer_prompts(
    setup: AttackSetup,
    rows: Sequence[PromptRow],
    prompts: Sequence[Sequence[Sequence[Message]]],
    prefills: Sequence[str] | None = None,
    notes: dict[str, Any] | None = None,
) -> AttackResult:
    """Decode one response to each prompt of each row (one per attempt), each with its own random numbers."""
    prefills = [""] * len(rows) if prefills is None else prefills
    pairs = [(i, attempt) for i, row_prompts in enumerate(prompts) for attempt in range(len(row_prompts))]
    responses = iter(
        generate(
            setup.policy,
            [prompts[i][attempt] for i, attempt in pairs],
            setup.decoding,
            prefills=[prefills[i] for i, _ in pairs],
            keys=[attempt_key(rows[i], attempt) for i, attempt in pairs],
            control=setup.control,
            parts=setup.parts,
        )
    )
    attempts = [[next(responses) for _ in row_prompts] for row_prompts in prompts]
    return AttackResult(rows, attempts, prefills, notes or {})
