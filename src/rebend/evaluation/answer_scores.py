"""Scores of generated answers, with or without attempts: what both of their stages share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from rebend.io.schemas import ATTEMPT_SCORES, RESPONSES, SCORES
from rebend.io.scores import NO_RESPONSE

EMPTY = "the answer is empty"


def generated_text(row: Mapping[str, Any]) -> str | None:
    """Return the part of a response that the model wrote, without the prefill of an attack; None without a response."""
    text = row["response"]
    return None if text is None else str(text).removeprefix(row.get("prefill") or "")


def why_unscored(text: str | None) -> str | None:
    """Return why an answer has no score: there is none, or it is empty; None if it can be scored."""
    return NO_RESPONSE if text is None else None if text.strip() else EMPTY


def answer_scores(answers: pa.Table, results: Sequence[float | str]) -> pa.Table:
    """Return a table of schema SCORES, or ATTEMPT_SCORES for completions, in the order of `answers`.

    A result is a number or, for an answer that is not scored, the reason. NaN and infinity are not scored.
    """
    schema = ATTEMPT_SCORES if "attempt" in answers.column_names else SCORES
    return _table(answers.select([name for name in ("row_id", "attempt") if name in schema.names]), results, schema)


def row_scores(row_ids: Sequence[str], results: Sequence[float | str]) -> pa.Table:
    """Return a table of schema SCORES; a result is a number or the reason why there is none."""
    return _table(pa.table({"row_id": pa.array(row_ids, RESPONSES.field("row_id").type)}), results, SCORES)


def _table(keys: pa.Table, results: Sequence[float | str], schema: pa.Schema) -> pa.Table:
    known = [
        result if isinstance(result, str) or math.isfinite(result) else f"the score is {result}" for result in results
    ]
    columns = {name: keys[name] for name in keys.column_names}
    columns["score"] = pa.array([None if isinstance(result, str) else result for result in known], pa.float64())
    columns["not_scored"] = pa.array([result if isinstance(result, str) else None for result in known], pa.string())
    return pa.table(columns).select(schema.names).cast(schema)
