"""What reward and win rate cost in time: the frontier of all controls of one model on one data set.

Time is that of decoding per token of the responses returned, so that a control pays for all that it throws
away: samples, candidates, steps. Beside it stands the compute, counted and not timed: how many tokens the
policy read per token returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate
from rebend.io.files import read_json
from rebend.report.formatting import counted, heading, in_percent, interval, number
from rebend.report.measurements import Cell, named_controls, relative_times, seconds_per_1000_tokens
from rebend.report.tables.layout import CELL, KEYS, columns, estimate_of, records

GAINED = {"reward": "reward", "heldout_reward": "heldout_reward", "win_rate": "win"}  # metric -> measurement
FRONTIER_NOTE = (
    "Time is decoding per token of the responses returned, on one machine (processor time where there is no "
    "accelerator), and that without control is 1 (longer responses spread the time of their prompt over more tokens, "
    "so that a row can lie below 1); policy "
    "tokens count what was thrown away too: samples, and candidates of a search (their reward model's own tokens are "
    "not among them). On the frontier: no other control has as much reward in less time. Held-out reward: a reward "
    "model that nothing was trained, tuned or picked by."
)
_NOTHING = Estimate(None, None, None, 0, 0)
FRONTIER = [
    "dataset", *KEYS, "method", "seconds_per_1000_tokens", "relative_time", "policy_tokens_per_token",
    *(column for metric in GAINED for column in columns(metric, _NOTHING)), "on_frontier",
]  # fmt: skip


def frontier(cells: Sequence[Cell], rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per prompts cell, the fastest first within each model, adapter and data set.

    `relative_time` is the time per token over that without control (`rebend.report.measurements.relative_times`).
    `on_frontier`: no other control of the same model, adapter and data set has at least its mean reward in less
    time, or more reward in the same; empty where either is unknown.
    """
    times, by_cell = relative_times(cells), dict(iter(rows.groupby(CELL, sort=False)))
    lines = []
    for cell in named_controls(cells):
        if cell["role"] != "prompts":
            continue
        own = by_cell.get(tuple(cell[name] for name in CELL), rows.iloc[:0])
        line: dict[str, Any] = {name: cell[name] for name in ("dataset", *KEYS, "method")}
        line |= {
            "seconds_per_1000_tokens": seconds_per_1000_tokens(cell),
            "relative_time": times[cell["record"]],
            "policy_tokens_per_token": compute(cell),
        }
        for metric, measurement in GAINED.items():
            line |= columns(metric, estimate_of(metric, own[own["metric"] == measurement]))
        lines.append(line)
    table = pd.DataFrame(lines, columns=FRONTIER)
    parts = [_marked(part) for _, part in table.groupby(["dataset", "model", "adapter"], sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else table


def compute(cell: Cell) -> float | None:
    """Return how many tokens the policy read per token returned, prompts apart; None where nothing was counted."""
    notes = read_json(cell["record"])["notes"]
    if "tokens_generated" not in notes or not notes.get("tokens"):
        return None
    return float((notes["tokens_generated"] + notes.get("candidates_scored", 0)) / notes["tokens"])


def _marked(part: pd.DataFrame) -> pd.DataFrame:
    """The lines of one model, adapter and data set, by time, with those on the frontier marked."""
    part = part.sort_values("seconds_per_1000_tokens", kind="stable", na_position="last")
    points = list(zip(part["seconds_per_1000_tokens"], part["reward"], strict=True))
    marks = [
        None
        if pd.isna(time) or pd.isna(reward)
        else not any((t < time and r >= reward) or (t <= time and r > reward) for t, r in points)
        for time, reward in points
    ]
    return part.assign(on_frontier=pd.Series(marks, index=part.index, dtype=object))


def shown_frontier(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text, ready to print."""
    lines = []
    for row in records(table):
        line = {key: row[key] for key in ("dataset", *KEYS)}
        line["s per 1000 tokens"] = number(row["seconds_per_1000_tokens"])
        line["time, × base"] = number(row["relative_time"])
        line["policy tokens per token"] = number(row["policy_tokens_per_token"])
        for metric in GAINED:
            if row[f"{metric}_n"] or row[f"{metric}_not_scored"]:
                text = interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], percent=in_percent(metric))
                line[heading(metric)] = counted(text, row[f"{metric}_n"], row[f"{metric}_not_scored"])
        line["on the frontier"] = "yes" if row["on_frontier"] == 1 else ""
        lines.append(line)
    return pd.DataFrame(lines).fillna("")
