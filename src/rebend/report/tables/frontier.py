"""The table frontier: reward and win rate against decoding time, for all controls of a model on a data set.

Time is decoding time per token of the returned responses, so it includes the time of discarded samples, candidates and
steps. Compute is the number of tokens that the policy model reads per returned token.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from rebend.io.files import read_json
from rebend.report.formatting import counted, estimate_text, has_rows, interval, number
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
    time_interval,
)
from rebend.report.metrics import QUALITY, heading, metrics_against_time
from rebend.report.tables.table import Inputs, Table

_Bounds = tuple[Any, ...]  # estimate, lower and upper bound
_TIME_ENDS = ("seconds_per_1000_tokens_low", "seconds_per_1000_tokens_high")


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a row per cell of quality, sorted by time within each model, adapter and data set.

    `relative_time` is the time per token, relative to no control (`rebend.report.measurements.relative_times`).
    `on_frontier` is false if another control of the same model, adapter and data set is clearly better in one way and
    no worse in the other: at least the same mean reward in clearly less time, or clearly more reward in no more time.
    Clearly: the two intervals do not overlap; a time without an interval counts as exact. None if time or reward is
    unknown.
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
            **dict(zip(_TIME_ENDS, time_interval(trainings), strict=True)),
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
    times = ["seconds_per_1000_tokens", *_TIME_ENDS, "relative_time", "policy_tokens_per_token"]
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
    times, rewards = (_bounded(part, name) for name in ("seconds_per_1000_tokens", "reward"))
    marks = [
        None
        if pd.isna(time[0]) or pd.isna(reward[0])
        else not any(_beats(t, r, time, reward) for t, r in zip(times, rewards, strict=True))
        for time, reward in zip(times, rewards, strict=True)
    ]
    return part.assign(on_frontier=pd.Series(marks, index=part.index, dtype=object))


def _bounded(part: pd.DataFrame, name: str) -> list[_Bounds]:
    """Return each row's estimate and its bounds; without an interval the bounds are the estimate."""
    rows = zip(part[name], part[f"{name}_low"], part[f"{name}_high"], strict=True)
    return [(value, *(value if pd.isna(end) else end for end in ends)) for value, *ends in rows]


def _beats(time: _Bounds, reward: _Bounds, other_time: _Bounds, other_reward: _Bounds) -> bool:
    """Return whether a control is clearly better than another in one way, and no worse in the other."""
    faster = time[2] < other_time[1] and reward[0] >= other_reward[0]
    return faster or (reward[1] > other_reward[2] and time[0] <= other_time[0])


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    lines = []
    for row in records(table):
        line = {key: row[key] for key in ("dataset", *KEYS)}
        time = row["seconds_per_1000_tokens"]
        line["s per 1000 tokens"] = "" if pd.isna(time) else interval(time, *(row[end] for end in _TIME_ENDS))
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
    "control has as much reward in clearly less time, or clearly more reward in no more time (clearly: the 95 % "
    "intervals do not overlap; that of time is over the batches of one run, or over trainings). Held-out reward: by a"
    " reward model that was not used for training, tuning or choosing.",
    compute,
    text,
)
