"""The table repbend_capability: RepBend's Table 12 (arXiv:2504.01550), scores of capability benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, mean, rate
from rebend.io.files import read_parquet
from rebend.io.schemas import CAPABILITY
from rebend.report.formatting import counted, estimate_text
from rebend.report.lines import column_names, columns
from rebend.report.measurements import seed_of
from rebend.report.side_by_side import beside_paper, side_by_side
from rebend.report.tables.repbend_asr import framed
from rebend.report.tables.table import Inputs, Table

COLUMNS = ["model", "adapter", "method", "capability", "benchmark", *column_names("score")]
PRINTED = ["printed_model", "printed_score"]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return Table 12 in long form: a row per model, adapter and benchmark (`benchmark` is its task)."""
    by_row: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for entry in inputs.capabilities:
        by_row.setdefault((entry["model"], entry["adapter"], entry["capability"]), []).append(entry)
    lines = []
    for entry, *others in by_row.values():
        line: dict[str, Any] = {name: entry[name] for name in ("model", "adapter", "capability")}
        line |= {"method": inputs.method_name(entry["model"], entry["adapter"]), "benchmark": entry["task"]}
        line |= columns("score", _score([entry, *others]))
        if inputs.repbend is not None:
            line["printed_model"] = inputs.repbend.model(entry)
            line["printed_score"] = inputs.repbend.score_of(entry)
        lines.append(line)
    return framed(lines, COLUMNS, PRINTED if inputs.repbend is not None else [])


def _score(trainings: Sequence[Mapping[str, Any]]) -> Estimate:
    """Return the mean score over questions and training seeds: a rate if all scores are 0 or 1, otherwise a mean."""
    values: list[float | None] = []
    keys: tuple[list[str], list[str]] = ([], [])  # questions, seeds
    for entry in trainings:
        table = read_parquet(entry["path"], CAPABILITY)
        values += [None if score is None else float(score) for score in table["score"].to_pylist()]
        keys[0].extend(table["row_id"].to_pylist())
        keys[1].extend([seed_of(entry)] * len(table))
    if {value for value in values if value is not None} <= {0.0, 1.0}:
        return rate([None if value is None else value == 1.0 for value in values], *keys)
    return mean(values, *keys)


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and benchmark, with a column per adapter."""

    def cell(row: Mapping[str, Any]) -> str:
        estimate = counted(estimate_text(row, "score", percent=True), row, "score")
        return beside_paper(estimate, row, "score")

    return side_by_side(table, lambda row: {"score, %": row["capability"]}, cell)


TABLE = Table(
    "repbend_capability",
    "Capability",
    "Without control. 95 % intervals in brackets (Wilson; bootstrap for benchmarks with scores between 0 and 1).",
    compute,
    text,
)
