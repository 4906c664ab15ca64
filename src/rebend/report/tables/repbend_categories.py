"""The table repbend_categories: attack success and benign answers by category of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rebend.report.formatting import counted, figure
from rebend.report.lines import ESTIMATE, estimate_of, estimate_values, measured
from rebend.report.measurements import KEYS, as_methods
from rebend.report.metrics import heading, metric_of
from rebend.report.side_by_side import side_by_side
from rebend.report.tables.table import Inputs, Table

_CATEGORY = [*KEYS, "dataset", "attack", "category"]
COLUMNS = [*_CATEGORY, "metric", *ESTIMATE]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return ASR and benign answer rate without control, by model, adapter, data set, attack and category."""
    named = inputs.rows[inputs.rows["category"] != ""]
    lines = []
    for metric in filter(None, map(metric_of, ("asr", "benign_answer_rate"))):
        parts = as_methods(measured(metric, named), inputs.prompting).groupby(_CATEGORY, sort=False)
        estimates = [[*keys, metric.name, *estimate_values(estimate_of(metric, part))] for keys, part in parts]
        lines += sorted(estimates, key=lambda line: str(line[COLUMNS.index("category")]))
    return pd.DataFrame(lines, columns=COLUMNS)


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model, data set, attack, category and metric, with a column per adapter."""

    def names(row: Mapping[str, Any]) -> dict[str, str]:
        category = {"data set": row["dataset"], "attack": row["attack"], "category": row["category"]}
        return {**category, "metric": heading(row["metric"])}

    return side_by_side(table, names, lambda row: counted(figure(row, row["metric"]), row))


TABLE = Table(
    "repbend_categories",
    "Safety by category of prompts",
    "Without control; 95 % Wilson intervals in brackets.",
    compute,
    text,
)
