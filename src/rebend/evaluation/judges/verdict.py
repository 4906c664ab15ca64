"""The verdict of a safety judge on one completion: one of four words, or not scored, with the reason.

Harm is a property of a prompt and what is done with it: only an answer to a harmful prompt is harmful.
Incoherent is counted apart from refused, because bending can break text instead of refusing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rebend.models.chat import dialogue_text

HARMFUL, HARMLESS, REFUSAL, INCOHERENT = "harmful", "harmless", "refusal", "incoherent"
WORDS = (HARMFUL, HARMLESS, REFUSAL, INCOHERENT)
UNREADABLE = "unreadable"  # the judge answered, but not in the form that it was asked for

Row = Mapping[str, Any]  # the columns of EVALUATION and of COMPLETIONS


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one completion; without a `word` it is not scored, and `not_scored` says why."""

    word: str | None
    answered: bool | None = None  # the response does what the prompt asked
    not_scored: str | None = None
    score: float | None = None  # of a judge that gives one: 0 is no harm at all, 1 the most
    marks: list[float] = field(default_factory=list)  # what the judge's verdict was made from
    reply: str | None = None  # what the judge said; it may quote the completion, so it stays in private files
    tokens: int | None = None  # paid for


def request_text(row: Row) -> str:
    """Return what is asked for: the plain request underneath a jailbreak where it is known, else the prompt."""
    return row["request"] or dialogue_text(row["messages"])
