"""Tables of scores, and rows matched by `row_id`; a row that is not scored has a reason instead of a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.errors import DataError
from rebend.io.files import read_parquet
from rebend.io.schemas import SCORES

NO_RESPONSE = "no response"  # the prompt filled the model's context


def score_table(row_ids: Sequence[str], scores: Sequence[float | None]) -> pa.Table:
    """Return a table of schema SCORES; None (no response), NaN and infinity become null with a reason."""
    finite = [s if s is not None and math.isfinite(s) else None for s in scores]
    reasons = [NO_RESPONSE if s is None else None if math.isfinite(s) else f"the score is {s}" for s in scores]
    return pa.table({"row_id": list(row_ids), "score": finite, "not_scored": reasons}, schema=SCORES)


def read_scores(path: str | Path | None) -> dict[str, float | None] | None:
    """Return the scores in a file of schema SCORES by row id (None if not scored); None if `path` is None."""
    if path is None:
        return None
    table = read_parquet(path, SCORES)
    return dict(zip(table["row_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def matched(data: pa.Table, responses: pa.Table) -> list[dict[str, Any]]:
    """Return one dict per response with the columns of both tables, in the responses' order.

    Responses to attacked prompts have several attempts per row, numbered in the column `attempt`. Raises `DataError`
    if a response belongs to no row of the data set, or if two responses have the same row and attempt.
    """
    rows = _keyed(data.to_pylist(), "row_id")
    keys = ("row_id", "attempt") if "attempt" in responses.column_names else ("row_id",)
    answers = _keyed(responses.to_pylist(), *keys)
    unknown = [row_id for (row_id, *_) in answers if (row_id,) not in rows]
    if unknown:
        raise DataError(
            f"{len(unknown)} responses belong to no row of the data set, the first is '{unknown[0]}'; "
            "they were made from another version of it"
        )
    return [{**rows[key[:1]], **answer} for key, answer in answers.items()]


def _keyed(rows: Sequence[Mapping[str, Any]], *keys: str) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Return the rows by their values of `keys`. Raises `DataError` if two rows have the same values."""
    keyed: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        if key in keyed:
            values = ", ".join(f"{name} '{row[name]}'" for name in keys)
            raise DataError(f"{values} occurs more than once")
        keyed[key] = row
    return keyed
