"""The table frontier: reward and win rate against decoding time, for all controls of a model on a data set.

Time is decoding time per token of the returned responses, so it includes the time of discarded samples, candidates and
steps. Compute is the number of tokens that the policy model reads per returned token.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from rebend.io.files import read_json
from rebend.report.formatting import counted, estimate_text, has_rows, number
from rebend.report.lines import column_names, columns, estimate_of, measured, records
from rebend.report.measurements import (
    KEYS,
    Cell,
    cell_key,
    folds,
    mean_of,
    relative_times,
    rows_by_cell,
    seconds_per_1000_tokens,
)
from rebend.report.metrics import QUALITY, heading, metrics_against_time
from rebend.report.tables.table import Inputs, Table


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a row per cell of quality, sorted by time within each model, adapter and data set.

    `relative_time` is the time per token, relative to no control (`rebend.report.measurements.relative_times`).
    `on_frontier` is true if no other control of the same model, adapter and data set has at least the same mean reward
    in less time, or more reward in the same time; None if time or reward is unknown.
    """
    times, by_cell = relative_times(inputs.cells), rows_by_cell(inputs.rows)
    lines = []
    for trainings in folds(inputs.cells):
        cell = trainings[0]
        if cell["role"] != QUALITY:
            continue
        rows = by_cell.get(cell_key(cell), inputs.rows.iloc[:0])
        line: dict[str, Any] = {name: cell[name] for name in ("dataset", *KEYS, "method")}
        line |= {
            "seconds_per_1000_tokens": mean_of(map(seconds_per_1000_tokens, trainings)),
            "relative_time": mean_of(times[training["record"]] for training in trainings),
            "policy_tokens_per_token": mean_of(map(policy_tokens, trainings)),
        }
        for metric in metrics_against_time():
            line |= columns(metric.name, estimate_of(metric, measured(metric, rows)))
        lines.append(line)
    table = pd.DataFrame(lines, columns=_columns())
    parts = [_marked(part) for _, part in table.groupby(["dataset", "model", "adapter"], sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else table


def _columns() -> list[str]:
    metrics = [column for metric in metrics_against_time() for column in column_names(metric.name)]
    times = ["seconds_per_1000_tokens", "relative_time", "policy_tokens_per_token"]
    return ["dataset", *KEYS, "method", *times, *metrics, "on_frontier"]


def policy_tokens(cell: Cell) -> float | None:
    """Return the tokens read by the policy model per returned token, without prompts; None if they were not counted."""
    notes = read_json(cell["record"])["notes"]
    if "tokens_generated" not in notes or not notes.get("tokens"):
        return None
    return float((notes["tokens_generated"] + notes.get("candidates_scored", 0)) / notes["tokens"])


def _marked(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one model, adapter and data set, sorted by time, with the column `on_frontier`."""
    part = part.sort_values("seconds_per_1000_tokens", kind="stable", na_position="last")
    points = list(zip(part["seconds_per_1000_tokens"], part["reward"], strict=True))
    marks = [
        None
        if pd.isna(time) or pd.isna(reward)
        else not any((t < time and r >= reward) or (t <= time and r > reward) for t, r in points)
        for time, reward in points
    ]
    return part.assign(on_frontier=pd.Series(marks, index=part.index, dtype=object))


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    lines = []
    for row in records(table):
        line = {key: row[key] for key in ("dataset", *KEYS)}
        line["s per 1000 tokens"] = number(row["seconds_per_1000_tokens"])
        line["time, × base"] = number(row["relative_time"])
        line["policy tokens per token"] = number(row["policy_tokens_per_token"])
        for metric in metrics_against_time():
            name = metric.name
            if has_rows(row, name):
                estimate = estimate_text(row, name, percent=metric.is_rate)
                line[heading(name)] = counted(estimate, row, name)
        line["on the frontier"] = "yes" if row["on_frontier"] == 1 else ""
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


TABLE = Table(
    "frontier",
    "Reward against decoding time",
    "Time is decoding time per token of the returned responses, on one machine (processor time if there is no "
    "accelerator). Without control it is 1; it can be below 1, because longer responses spread the time of their "
    "prompt over more tokens. Policy tokens are the tokens that the policy model reads per returned token, including "
    "discarded samples and candidates of a search, but not the tokens of a reward model. On the frontier: no other "
    "control has as much reward in less time. Held-out reward: by a reward model that was not used for training, "
    "tuning or choosing.",
    compute,
    text,
)
