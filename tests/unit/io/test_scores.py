"""Responses are matched with rows by id, and by attempt if there are several."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from rebend.errors import DataError
from rebend.io.schemas import COMPLETIONS, RESPONSES
from rebend.io.scores import matched

DATA = pa.Table.from_pylist([{"row_id": "a", "harmful": True}, {"row_id": "b", "harmful": False}])


def completions(*keys: tuple[str, int]) -> pa.Table:
    rows: list[dict[str, Any]] = [{"row_id": r, "attempt": a, "response": f"{r}{a}", "prefill": ""} for r, a in keys]
    return pa.Table.from_pylist(rows, schema=COMPLETIONS)


def test_each_attempt_is_matched_with_its_row_in_the_order_of_the_completions() -> None:
    rows = matched(DATA, completions(("b", 0), ("a", 1), ("a", 0)))
    assert [(row["response"], row["harmful"]) for row in rows] == [("b0", False), ("a1", True), ("a0", True)]


def test_duplicate_attempt_is_refused() -> None:
    with pytest.raises(DataError, match="row_id 'a', attempt '1' occurs more than once"):
        matched(DATA, completions(("a", 1), ("a", 0), ("a", 1)))


def test_duplicate_response_without_attempts_is_refused() -> None:
    twice = pa.Table.from_pylist([{"row_id": "a", "response": "x"}] * 2, schema=RESPONSES)
    with pytest.raises(DataError, match="row_id 'a' occurs more than once"):
        matched(DATA, twice)


def test_completion_of_another_data_set_is_named() -> None:
    with pytest.raises(DataError, match="1 responses belong to no row of the data set, the first is 'c'"):
        matched(DATA, completions(("a", 0), ("c", 0)))
