"""The table frontier: what reward and win rate cost in time, for all controls of one model on one data set.

Time is that of decoding per token of the returned responses, so it includes everything that a control throws away:
samples, candidates, steps. Beside it stands the compute, counted and not timed: tokens that the policy read per
returned token.
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
    relative_times,
    rows_by_cell,
    seconds_per_1000_tokens,
)
from rebend.report.metrics import QUALITY, heading, metrics_against_time
from rebend.report.tables.table import Inputs, Table


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a line per cell of quality, the fastest first within each model, adapter and data set.

    `relative_time` is the time per token over that without control (`rebend.report.measurements.relative_times`).
    `on_frontier`: no other control of the same model, adapter and data set has at least its mean reward in less
    time, or more reward in the same time; empty where either is unknown.
    """
    times, by_cell = relative_times(inputs.cells), rows_by_cell(inputs.rows)
    lines = []
    for cell in inputs.cells:
        if cell["role"] != QUALITY:
            continue
        own = by_cell.get(cell_key(cell), inputs.rows.iloc[:0])
        line: dict[str, Any] = {name: cell[name] for name in ("dataset", *KEYS, "method")}
        line |= {
            "seconds_per_1000_tokens": seconds_per_1000_tokens(cell),
            "relative_time": times[cell["record"]],
            "policy_tokens_per_token": policy_tokens(cell),
        }
        for metric in metrics_against_time():
            line |= columns(metric.name, estimate_of(metric, measured(metric, own)))
        lines.append(line)
    table = pd.DataFrame(lines, columns=_columns())
    parts = [_marked(part) for _, part in table.groupby(["dataset", "model", "adapter"], sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else table


def _columns() -> list[str]:
    metrics = [column for metric in metrics_against_time() for column in column_names(metric.name)]
    times = ["seconds_per_1000_tokens", "relative_time", "policy_tokens_per_token"]
    return ["dataset", *KEYS, "method", *times, *metrics, "on_frontier"]


def policy_tokens(cell: Cell) -> float | None:
    """Return how many tokens the policy read per token returned, prompts apart; None where nothing was counted."""
    notes = read_json(cell["record"])["notes"]
    if "tokens_generated" not in notes or not notes.get("tokens"):
        return None
    return float((notes["tokens_generated"] + notes.get("candidates_scored", 0)) / notes["tokens"])


def _marked(part: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of one model, adapter and data set, by time, with those on the frontier marked."""
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
                line[heading(name)] = counted(estimate, row[f"{name}_n"], row[f"{name}_not_scored"])
        line["on the frontier"] = "yes" if row["on_frontier"] == 1 else ""
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


TABLE = Table(
    "frontier",
    "What reward costs in time",
    "Time is decoding per token of the returned responses, on one machine (processor time where there is no "
    "accelerator); without control it is 1 (longer responses spread the time of their prompt over more tokens, so a "
    "row can lie below 1). Policy tokens include tokens that were thrown away: samples, and candidates of a search "
    "(but not the tokens of their reward model). On the frontier: no other control has as much reward in less time. "
    "Held-out reward: a reward model that was not used to train, tune or choose anything.",
    compute,
    text,
)
