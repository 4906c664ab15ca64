"""The table matrix: every metric of every adapter under every control, in long form."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from rebend.report.formatting import counted, figure
from rebend.report.lines import ESTIMATE, estimate_of, estimate_values, measured, records
from rebend.report.measurements import KEYS
from rebend.report.metrics import METRICS, Metric, heading, is_direct, metric_of, name_under
from rebend.report.tables.table import Inputs, Table

COLUMNS = [*KEYS, "metric", *ESTIMATE]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a row per model, adapter, control and metric; the data sets of a role are pooled."""
    lines = [
        [*keys, name, *estimate_values(estimate_of(metric, part))]
        for keys, cell in inputs.rows.groupby(KEYS, sort=False)
        for name, metric, part in _parts(cell)
        if len(part)
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def _parts(cell: pd.DataFrame) -> Iterator[tuple[str, Metric, pd.DataFrame]]:
    """Yield name, metric and measurements of each metric of one model under one control."""
    for metric in METRICS:
        rows = measured(metric, cell)
        if metric.every_attack:
            for attack, part in rows.groupby("attack", sort=False):
                yield name_under(metric, str(attack)), metric, part
        else:
            yield metric.name, metric, rows[[not attack or is_direct(attack) for attack in rows["attack"]]]


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model, adapter and control, with a column per metric."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in records(table):
        line = lines.setdefault(tuple(row[key] for key in KEYS), {key: row[key] for key in KEYS})
        line[heading(row["metric"])] = counted(figure(row, row["metric"]), row)
    names = list(table["metric"].unique())
    order = dict.fromkeys(heading(name) for metric in METRICS for name in names if metric_of(name) == metric)
    frame = pd.DataFrame(list(lines.values())).fillna("")
    return frame[[*KEYS, *(column for column in order if column in frame)]]


TABLE = Table(
    "matrix",
    "Adapter by control",
    "ASR: share of harmful prompts on which at least one attempt of the attack succeeds. Perplexity: exp of the mean "
    "over answers of the mean negative log-likelihood per token, of generated answers under the base model and on "
    "held-out chats under the model itself. The rows of all data sets are pooled. 95 % intervals in brackets (rates: "
    "Wilson; means: bootstrap), over clusters of prompts where several prompts are about one question.",
    compute,
    text,
)
