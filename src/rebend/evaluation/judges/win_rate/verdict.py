"""Verdicts of win-rate judges: the states of a row, and the schema of their file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.io.schemas import VERDICTS

ComparedRow = Mapping[str, Any]  # `row_id`, `messages`, `reference`, `response`
Judgement = dict[str, Any]  # columns of DETAILED_VERDICTS for one row, without row_id and lengths
Scores = Mapping[str, float | None]  # by row_id

WIN, TIE, LOSE = "win", "tie", "lose"
MISSING = "missing"  # no response, reference or reward
STATES = (WIN, TIE, LOSE, "refused", "unreadable", "too_long", "error", MISSING)

DETAILED_VERDICTS = pa.schema(  # VERDICTS and the basis of the verdict: marks per order, raw replies, tokens
    [
        *VERDICTS,
        ("state", pa.string()),  # one of STATES
        ("response_marks", pa.list_(pa.float64())),  # a mark per order: the response first, then second
        ("reference_marks", pa.list_(pa.float64())),
        ("response_length", pa.int64()),  # characters; null if the text is missing
        ("reference_length", pa.int64()),
        ("replies", pa.list_(pa.string())),
        ("tokens_in", pa.int64()),  # of both orders
        ("tokens_out", pa.int64()),
    ]
)


@dataclass(frozen=True)
class JudgeInputs:
    """Inputs of a win-rate judge: the shared reply store, and for `reward_model` rewards by row_id."""

    store: Path
    rewards: Scores | None = None
    reference_rewards: Scores | None = None


def combine(first: str, second: str) -> str:
    """Return the common verdict of the two orders, or a tie if they differ."""
    return first if first == second else TIE


def compare(response: float, reference: float) -> str:
    """Return win, tie or lose for the response."""
    return TIE if response == reference else WIN if response > reference else LOSE


def missing(reason: str) -> Judgement:
    """Return the judgement of a row that cannot be compared."""
    return {"state": MISSING, "not_scored": reason}


def by_scores(response: float | None, reference: float | None) -> Judgement:
    """Return the judgement of a proxy from one score per text, which does not depend on their order."""
    if response is None or reference is None:
        return missing("no reward of the response" if response is None else "no reward of the reference")
    verdict = compare(response, reference)
    return {"verdict": verdict, "state": verdict, "response_marks": [response], "reference_marks": [reference]}
