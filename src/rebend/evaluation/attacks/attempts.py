"""What all attacks share: the decoding setup, the target text, and the attempts on each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rebend.config.decoding import Decoding
from rebend.generation.generate import Response, generate
from rebend.generation.intervention import Control
from rebend.io.chunks import ChunkStore
from rebend.models.chat import Message
from rebend.models.loading import Policy

PromptRow = dict[str, Any]  # the columns of EVALUATION
Attempts = list[list[Response | None]]  # per prompt, one response per attempt; None if the prompt exceeds the context


@dataclass(frozen=True)
class AttackSetup:
    """The attacked model, how it decodes, and the folder where finished work is kept."""

    policy: Policy
    decoding: Decoding
    control: Control
    parts: ChunkStore


@dataclass(frozen=True)
class AttackResult:
    """The attacked prompts with their attempts; `notes` holds what only this attack reports, e.g. losses."""

    rows: Sequence[PromptRow]
    attempts: Attempts
    prefills: Sequence[str]  # per prompt: the text that the attack writes at the beginning of the response
    notes: dict[str, Any] = field(default_factory=dict)


def harmful_rows(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Return the rows whose prompt is marked as harmful."""
    return [row for row in rows if row["harmful"]]


def target_of(row: PromptRow, default: str) -> str:
    """Return the target of an attack on a row: the data set's own target, or else `default`."""
    return row["target"] or default


def attempt_key(row: PromptRow, attempt: int) -> str:
    """Return the key of an attempt's random numbers; attempt 0 has the key of a prompt that is answered once."""
    return f"{row['row_id']}/{attempt}" if attempt else row["row_id"]


def answer_prompts(
    setup: AttackSetup,
    rows: Sequence[PromptRow],
    prompts: Sequence[Sequence[Sequence[Message]]],
    prefills: Sequence[str] | None = None,
    notes: dict[str, Any] | None = None,
) -> AttackResult:
    """Decode one response to each of a row's prompts (one prompt per attempt), with random numbers of its own."""
    prefills = [""] * len(rows) if prefills is None else prefills
    places = [(i, attempt) for i, row_prompts in enumerate(prompts) for attempt in range(len(row_prompts))]
    responses = iter(
        generate(
            setup.policy,
            [prompts[i][attempt] for i, attempt in places],
            setup.decoding,
            prefills=[prefills[i] for i, _ in places],
            keys=[attempt_key(rows[i], attempt) for i, attempt in places],
            control=setup.control,
            parts=setup.parts,
        )
    )
    attempts = [[next(responses) for _ in row_prompts] for row_prompts in prompts]
    return AttackResult(rows, attempts, prefills, notes or {})
