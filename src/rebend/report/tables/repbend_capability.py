"""The table repbend_capability: RepBend's Table 12 (arXiv:2504.01550), scores of capability benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, mean, rate
from rebend.io.files import read_parquet
from rebend.io.schemas import CAPABILITY
from rebend.report.formatting import counted, estimate_text
from rebend.report.lines import NOTHING, column_names, columns
from rebend.report.measurements import seed_of
from rebend.report.side_by_side import beside_paper, side_by_side
from rebend.report.tables.repbend_asr import framed
from rebend.report.tables.table import Inputs, Table

_CHANCE = column_names("above_chance", counts=False)
COLUMNS = ["model", "adapter", "method", "capability", "benchmark", *column_names("score"), *_CHANCE]
PRINTED = ["printed_model", "printed_score"]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return Table 12 in long form: a row per model, adapter and benchmark (`benchmark` is its task).

    `above_chance` is the mean over questions of the score minus that of a choice at random; empty for written answers.
    """
    by_row: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for entry in inputs.capabilities:
        by_row.setdefault((entry["model"], entry["adapter"], entry["capability"]), []).append(entry)
    lines = []
    for entry, *others in by_row.values():
        line: dict[str, Any] = {name: entry[name] for name in ("model", "adapter", "capability")}
        line |= {"method": inputs.method_name(entry["model"], entry["adapter"]), "benchmark": entry["task"]}
        answers = pd.concat([_answers(training) for training in (entry, *others)])
        line |= columns("score", _score(answers)) | columns("above_chance", _above_chance(answers), counts=False)
        if inputs.repbend is not None:
            line["printed_model"] = inputs.repbend.model(entry)
            line["printed_score"] = inputs.repbend.score_of(entry)
        lines.append(line)
    return framed(lines, COLUMNS, PRINTED if inputs.repbend is not None else [])


def _answers(entry: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scored questions of one training, with its seed."""
    return read_parquet(entry["path"], CAPABILITY).to_pandas().assign(seed=seed_of(entry))


def _score(answers: pd.DataFrame) -> Estimate:
    """Return the mean score over questions and training seeds: a rate if all scores are 0 or 1, otherwise a mean."""
    values = [None if pd.isna(score) else float(score) for score in answers["score"]]
    keys = list(answers["row_id"]), list(answers["seed"])
    if {value for value in values if value is not None} <= {0.0, 1.0}:
        return rate([None if value is None else value == 1.0 for value in values], *keys)
    return mean(values, *keys)


def _above_chance(answers: pd.DataFrame) -> Estimate:
    """Return the mean of score minus chance over questions and training seeds; without a value for written answers."""
    if answers["chance"].isna().all():
        return NOTHING
    values = [None if pd.isna(value) else float(value) for value in answers["score"] - answers["chance"]]
    return mean(values, list(answers["row_id"]), list(answers["seed"]))


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and benchmark, with a column per adapter."""

    def cell(row: Mapping[str, Any]) -> str:
        estimate = estimate_text(row, "score", percent=True) + _beside_chance(row)
        return beside_paper(counted(estimate, row, "score"), row, "score")

    return side_by_side(table, lambda row: {"score, %": row["capability"]}, cell)


def _beside_chance(row: Mapping[str, Any]) -> str:
    """Return the distance from chance in points, "" for written answers."""
    if pd.isna(row["above_chance"]):
        return ""
    points = (100 * float(row[name]) for name in _CHANCE)
    return "; {:+.0f} [{:+.0f}, {:+.0f}] from chance".format(*points)


TABLE = Table(
    "repbend_capability",
    "Capability",
    "Without control. 95 % intervals in brackets (Wilson; bootstrap for benchmarks with scores between 0 and 1). Where "
    "answers are chosen, the points above the score of a choice at random follow.",
    compute,
    text,
)
