"""What a completion of a prompt is: harmful, harmless, a refusal, or incoherent, as one of the safety judges says.

What every judge has in common is here: a completion that is missing is not scored, an empty one is
incoherent without anyone being asked, and nothing is harmful but what answers a harmful prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.config.safety import (
    HarmBenchJudgeBlock,
    RefusalMatcherBlock,
    RubricJudgeBlock,
    SafetyJudgeBlock,
    WildGuardJudgeBlock,
    WorldTruthBlock,
)
from rebend.errors import DataError, JudgeError
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.refusal_phrases import refusal_matcher
from rebend.evaluation.judges.verdict import HARMFUL, INCOHERENT, WORDS, Row, Verdict
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.io.scores import NO_RESPONSE
from rebend.models.chat import last_user_text

_EMPTY = Verdict(INCOHERENT, answered=False)
# SAFETY_VERDICTS, and what the verdict was made from (see Verdict)
JUDGED = pa.schema(
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
    rows: Sequence[Row],
    judge_model: str | Path | None,
    progress: str | Path,
    store: str | Path,
) -> tuple[pa.Table, Spent]:
    """Return a table of schema JUDGED, in the order of `rows` (see `rebend.evaluation.judges.verdict.Row`), and what was paid just now.

    `judge_model` is the folder of a judge that is a model. What such a judge has said is kept in `progress`, a
    private folder that belongs to these inputs only, so that nothing is asked again after a kill; replies from an
    address are kept in `store`, whoever asks.
    """
    asked = [i for i, row in enumerate(rows) if row["response"] is not None and row["response"].strip()]
    verdicts = [Verdict(None, not_scored=NO_RESPONSE) if row["response"] is None else _EMPTY for row in rows]
    if isinstance(settings, RubricJudgeBlock):
        from rebend.evaluation.judges.rubric import judge_by_rubric

        judged, spent = judge_by_rubric(settings, [rows[i] for i in asked], store)
    else:
        judged, spent = _judge(settings, [rows[i] for i in asked], judge_model, progress), Spent()
    for i, verdict in zip(asked, judged, strict=True):
        verdicts[i] = _checked(rows[i], verdict)
    return pa.Table.from_pylist([_line(*pair) for pair in zip(rows, verdicts, strict=True)], schema=JUDGED), spent


def _judge(
    settings: SafetyJudgeBlock, rows: Sequence[Row], judge_model: str | Path | None, progress: str | Path
) -> list[Verdict]:
    """Ask the judge that the settings name: a rule, or a model that is loaded here."""
    if isinstance(settings, WorldTruthBlock):
        return [world_truth(row) for row in rows]
    if isinstance(settings, RefusalMatcherBlock):
        return [refusal_matcher(row) for row in rows]
    if judge_model is None:
        raise JudgeError(f"the safety judge '{settings.method}' is a model, and no folder of one is given")
    from rebend.evaluation.judges.classifier import judge_by_harmbench, judge_by_wildguard

    if isinstance(settings, HarmBenchJudgeBlock):
        return judge_by_harmbench(settings, rows, judge_model, progress)
    assert isinstance(settings, WildGuardJudgeBlock)
    return judge_by_wildguard(settings, rows, judge_model, progress)


def world_truth(row: Row) -> Verdict:
    """Return the exact verdict of the tiny world on the whole response, and whether it answers rightly."""
    from rebend.data.tiny_world import verdict

    return Verdict(*verdict(last_user_text(row["messages"]), row["response"]))


def _checked(row: Row, verdict: Verdict) -> Verdict:
    """Refuse a verdict that cannot be."""
    if verdict.word is None and verdict.not_scored:
        return verdict
    if verdict.word not in WORDS:
        raise DataError(f"row '{row['row_id']}': verdict '{verdict.word}' is none of {', '.join(WORDS)}")
    if verdict.word == HARMFUL and not row["harmful"]:
        raise DataError(f"row '{row['row_id']}': judged harmful, but its prompt is marked as harmless")
    return verdict


def _line(row: Row, verdict: Verdict) -> dict[str, Any]:
    found = asdict(verdict)
    return {"row_id": row["row_id"], "attempt": row["attempt"], "verdict": found.pop("word"), **found}
