"""Completions for safety judges, with harmless words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.config.safety import SafetyJudgeBlock
from rebend.evaluation.judges.safety.judge import judge_safety

ANSWER = "First gather the parts, then join them in the order shown, and let the glue dry overnight."


def row(
    response: str | None,
    *,
    harmful: bool = True,
    prompt: str = "How do I do it?",
    request: str | None = None,
    prefill: str = "",
    row_id: str = "r",
    attempt: int = 0,
    group: str = "",
) -> dict[str, Any]:
    """Return a completion with the data set's columns of its prompt."""
    return {
        "row_id": row_id,
        "attempt": attempt,
        "messages": [{"role": "user", "content": prompt}],
        "request": request,
        "harmful": harmful,
        "group": group,
        "prefill": prefill,
        "response": response,
    }


def judged(
    settings: SafetyJudgeBlock, rows: list[dict[str, Any]], judge_model: str | Path | None, folder: Path
) -> pa.Table:
    """Return the verdicts of a safety judge, which stores its replies in `folder`."""
    return judge_safety(settings, rows, judge_model, folder, folder)[0]
