"""Verdicts of the chosen safety judge on completions: harmful, harmless, refusal or incoherent.

Rules for all judges: a missing completion is not scored, an empty completion is incoherent and not sent to the judge,
and only a response to a harmful prompt can be harmful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.config.safety import SAFETY_JUDGES, SafetyJudgeBlock
from rebend.errors import DataError
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.safety.verdict import HARMFUL, INCOHERENT, WORDS, JudgedRow, JudgeFolders, Verdict
from rebend.io.registry import load_code
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.io.scores import NO_RESPONSE

_EMPTY = Verdict(INCOHERENT, answered=False)
DETAILED_SAFETY_VERDICTS = pa.schema(  # SAFETY_VERDICTS and the basis of the verdict (see Verdict)
    [
        *SAFETY_VERDICTS,
        ("score", pa.float64()),
        ("marks", pa.list_(pa.float64())),
        ("reply", pa.string()),
        ("tokens", pa.int64()),
    ]
)


def judge_safety(
    settings: SafetyJudgeBlock,
    rows: Sequence[JudgedRow],
    judge_model: str | Path | None,
    progress: str | Path,
    store: str | Path,
) -> tuple[pa.Table, Spent]:
    """Return a table of schema DETAILED_SAFETY_VERDICTS in the order of `rows`, and the costs of this run.

    `judge_model` is the folder of a judge that is a model on this machine. Its finished batches are stored in
    `progress`, a private folder of this job, so that a killed job can resume. Replies from an address are stored in
    `store`, which all jobs share. Raises `DataError` for an impossible verdict, `JudgeError` if the judge is not
    available.
    """
    nonempty = [i for i, row in enumerate(rows) if row["response"] is not None and row["response"].strip()]
    verdicts = [Verdict(None, not_scored=NO_RESPONSE) if row["response"] is None else _EMPTY for row in rows]
    folders = JudgeFolders(Path(judge_model) if judge_model is not None else None, Path(progress), Path(store))
    judge = load_code(SAFETY_JUDGES[settings.method].code)
    judged, spent = judge(settings, [rows[i] for i in nonempty], folders)
    for i, verdict in zip(nonempty, judged, strict=True):
        verdicts[i] = _checked(rows[i], verdict)
    lines = [_line(*pair) for pair in zip(rows, verdicts, strict=True)]
    return pa.Table.from_pylist(lines, schema=DETAILED_SAFETY_VERDICTS), spent


def _checked(row: JudgedRow, verdict: Verdict) -> Verdict:
    """Return the verdict. Raises `DataError` if it is impossible."""
    if verdict.word is None and verdict.not_scored:
        return verdict
    if verdict.word not in WORDS:
        raise DataError(f"row '{row['row_id']}': verdict '{verdict.word}' is none of {', '.join(WORDS)}")
    if verdict.word == HARMFUL and not row["harmful"]:
        raise DataError(f"row '{row['row_id']}': judged harmful, but its prompt is marked as harmless")
    return verdict


def _line(row: JudgedRow, verdict: Verdict) -> dict[str, Any]:
    columns = asdict(verdict)
    return {"row_id": row["row_id"], "attempt": row["attempt"], "verdict": columns.pop("word"), **columns}
