"""Verdicts on responses compared with the preferred answers of the data set (arXiv:2406.05954, section 5).

A win rate is wins / judged rows: a tie is no win, and rows without a verdict are not judged. The column `state` also
contains states without a verdict (refused, unreadable, error, missing); `not_scored` is the reason. `world_rubric` and
`reward_model` are proxies for a judge, and are marked as proxies in reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rebend.config.judges import JUDGES, JudgeBlock
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.win_rate.verdict import DETAILED_VERDICTS, ComparedRow, JudgeInputs, Scores, missing
from rebend.io.registry import load_code
from rebend.io.scores import NO_RESPONSE


def judge_wins(
    settings: JudgeBlock,
    rows: Sequence[ComparedRow],
    store: str | Path,
    rewards: Scores | None = None,
    reference_rewards: Scores | None = None,
) -> tuple[pa.Table, Spent]:
    """Return a table of schema DETAILED_VERDICTS for the drawn rows (see `draw`), and the costs of this run.

    `store` is the folder of judge replies that all jobs share; the rewards by row_id are for the judge `reward_model`.
    Raises `JudgeError` if the judge is not available.
    """
    drawn = draw(rows, settings.sample, settings.seed)
    complete = [row for row in drawn if _gap(row) is None]
    judge = load_code(JUDGES[settings.method].code)
    judged, spent = judge(settings, complete, JudgeInputs(Path(store), rewards, reference_rewards))
    in_order = iter(judged)
    lines = [_line(row, next(in_order) if (gap := _gap(row)) is None else missing(gap)) for row in drawn]
    return pa.Table.from_pylist(lines, schema=DETAILED_VERDICTS), spent


def described(settings: JudgeBlock) -> dict[str, str]:
    """Return the metadata of a file of verdicts: judge, model, form and prices; "" if the judge has none."""
    values = settings.model_dump()
    prices = {name: values.get(name) for name in ("price_in", "price_out")}
    return {
        "judge": settings.method,
        "model": values.get("model", ""),
        "form": values.get("form", ""),
        **{name: "" if price is None else repr(price) for name, price in prices.items()},
    }


def draw(rows: Sequence[ComparedRow], sample: int | None, seed: int) -> list[ComparedRow]:
    """Return `sample` rows (all rows if it is None or if there are fewer), drawn by row ids and `seed` only.

    All controls are therefore judged on the same prompts.
    """
    if sample is None or sample >= len(rows):
        return list(rows)
    ids = sorted(row["row_id"] for row in rows)
    chosen = {ids[i] for i in np.random.default_rng(seed).choice(len(ids), size=sample, replace=False)}
    return [row for row in rows if row["row_id"] in chosen]


def _gap(row: ComparedRow) -> str | None:
    """Return the reason why a row cannot be compared, or None."""
    return NO_RESPONSE if row["response"] is None else "no reference" if row["reference"] is None else None


def _line(row: ComparedRow, judgement: Mapping[str, Any]) -> dict[str, Any]:
    lengths = {f"{name}_length": None if row[name] is None else len(row[name]) for name in ("response", "reference")}
    return {"row_id": row["row_id"], **lengths, **judgement}
