"""Lines of a file of win-rate verdicts."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from rebend.evaluation.judges.win_rate.verdict import DETAILED_VERDICTS


def verdict_line(
    verdict: str | None, ours: list[float], theirs: list[float], longer: int, **more: Any
) -> dict[str, Any]:
    marks = {"response_marks": ours, "reference_marks": theirs} if ours else {}
    lengths = {"response_length": 20 + longer, "reference_length": 20}
    return {
        "row_id": "x",
        "verdict": verdict,
        "state": verdict,
        "tokens_in": 100,
        "tokens_out": 10,
        **marks,
        **lengths,
        **more,
    }


WIN = verdict_line("win", [8, 8], [5, 5], 4)
LOSE = verdict_line("lose", [5, 5], [8, 8], -4)
FLIP = verdict_line("tie", [8, 5], [5, 8], 0)
EVEN = verdict_line("tie", [7, 7], [7, 7], 2)
SHORT_WIN = verdict_line("win", [8, 7], [5, 5], -1)
REFUSED = verdict_line(None, [], [], 9, state="refused", not_scored="refused: no")
ERROR = verdict_line(None, [], [], 9, state="error", not_scored="error: 500")
MISSING = {"row_id": "x", "state": "missing", "not_scored": "no response", "reference_length": 3}


def verdict_table(*lines: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{**one, "row_id": f"r{i}"} for i, one in enumerate(lines)], schema=DETAILED_VERDICTS)
