"""The table recontrol: the layout of RE-Control's Table 1 (arXiv:2406.05954)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rebend.report.formatting import counted, estimate_text, has_rows, number, without_empty
from rebend.report.lines import column_names, columns, estimate_of, measured, printed_columns, records
from rebend.report.measurements import (
    KEYS,
    cell_key,
    folds,
    held_rate,
    judge_names,
    mean_of,
    relative_times,
    rows_by_cell,
    seconds_per_1000_tokens,
)
from rebend.report.metrics import QUALITY, heading, quality_metrics
from rebend.report.tables.table import Inputs, Table


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a row per data set, model, adapter and control, with columns for each metric of quality."""
    judges, by_cell, times = judge_names(inputs.cells), rows_by_cell(inputs.rows), relative_times(inputs.cells)
    stages = {stage for cell in inputs.cells for stage in cell["scores"]}
    lines, metrics = [], [m for m in quality_metrics() if not m.optional or m.measured.source in stages]
    for trainings in folds(inputs.cells):
        cell = trainings[0]
        if cell["role"] != QUALITY:
            continue
        rows = by_cell.get(cell_key(cell), inputs.rows.iloc[:0])
        line: dict[str, Any] = {name: cell[name] for name in ("dataset", *KEYS)}
        for metric in metrics:
            line |= columns(metric.name, estimate_of(metric, measured(metric, rows)))
        line["judge"] = judges.get(cell["scores"].get("win_rate", ""), "")
        line["seconds_per_1000_tokens"] = mean_of(map(seconds_per_1000_tokens, trainings))
        line["relative_time"] = mean_of(times[training["record"]] for training in trainings)
        line["held_rate"] = mean_of(map(held_rate, trainings))
        if inputs.recontrol is not None:
            printed = inputs.recontrol.row(cell)
            line |= {f"printed_{name}": printed.get(name) for name in _printed_names()}
        lines.append(line)
    if not lines:
        return pd.DataFrame(columns=_columns())
    return pd.DataFrame(lines).sort_values("dataset", kind="stable")


def _columns() -> list[str]:
    """Return the names of all columns except those of printed numbers."""
    metrics = [column for m in quality_metrics() if not m.optional for column in column_names(m.name)]
    return ["dataset", *KEYS, *metrics, "judge", "seconds_per_1000_tokens", "relative_time", "held_rate"]


def _printed_names() -> list[str]:
    return [*(metric.name for metric in quality_metrics() if not metric.optional), "hours"]


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    lines = []
    for row in records(table):
        line = {key: row[key] for key in ("dataset", *KEYS)}
        for metric in quality_metrics():
            name = metric.name
            if f"{name}_n" in row and has_rows(row, name):
                estimate = estimate_text(row, name, percent=metric.is_rate)
                line[heading(name)] = counted(estimate, row, name)
        line["s per 1000 tokens"] = number(row["seconds_per_1000_tokens"])
        line["time, × base"] = number(row["relative_time"])
        line["clipped, %"] = number(row["held_rate"], percent=True) if row["held_rate"] else ""
        lines.append({**line, **printed_columns(row, _printed_names())})
    return without_empty(pd.DataFrame(lines).fillna(""))


TABLE = Table(
    "recontrol",
    "Quality by data set",
    "95 % intervals in brackets. A tie is no win. Reward is the raw output of the reward model. Clipped: tokens at "
    "which the edit of the control was too large or a value was not finite.",
    compute,
    text,
)
