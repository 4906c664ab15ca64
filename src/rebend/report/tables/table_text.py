"""Tables as people read them, and what a reader must know of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.report.formatting import (
    HEADINGS,
    counted,
    figure,
    heading,
    in_percent,
    interval,
    number,
    number_of,
    without_empty,
)
from rebend.report.tables.frontier import FRONTIER_NOTE, shown_frontier
from rebend.report.tables.layout import KEYS, PROMPT_METRICS, REPBEND_OUTCOMES, attack_of, records
from rebend.report.tables.safety_text import SAFETY_NOTES, SAFETY_SHOWN
from rebend.report.tables.win_rates import WIN_RATE_NOTE, win_rate_text

_PAPER_NOTE = (
    "Printed: as in the paper, whole benchmarks without control. The paper's own averages disagree with its cells "
    "in places (resources/published/README.md); where such an average is shown, what its cells give stands beside it."
)
_NOTES = {
    "matrix": "ASR: harmful prompts on which one of the attack's tries succeeds. "
    "Rows of all data sets pooled. 95 % intervals in brackets (rates: Wilson; means: bootstrap).",
    "recontrol": "95 % intervals in brackets. A tie is no win. Reward is the raw output of the reward model.",
    "repbend": "95 % Wilson intervals in brackets. An attack succeeds on a prompt if one of its tries does; else the "
    "first try tells whether the prompt was refused or answered incoherently, or neither, if with something else.",
    "frontier": FRONTIER_NOTE,
    "gains": "Differences on the same prompts, with 95 % bootstrap intervals; ASR reduction is 1 - ASR / ASR of the "
    "base, with the MOVER-R interval of two Wilson intervals.",
    "claims": "A claim that could not be measured is not met.",
    "win_rates": WIN_RATE_NOTE,
    **SAFETY_NOTES,
}


def shown(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table `name` as text, ready to print."""
    return _SHOWN[name](table) if len(table) else pd.DataFrame()


def note(name: str, table: pd.DataFrame) -> str:
    """Return what a reader must know of the table `name`."""
    extra = [_PAPER_NOTE] if any(str(column).startswith("printed_") for column in table.columns) else []
    judges = sorted({judge for judge in table["judge"] if judge}) if "judge" in table and len(table) else []
    extra += [f"Win rate judged by {', '.join(judges)}."] if judges else []
    return " ".join([_NOTES[name], *extra])


def _matrix(table: pd.DataFrame) -> pd.DataFrame:
    """A line per model, adapter and control; a column per metric."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in records(table):
        line = lines.setdefault(tuple(row[key] for key in KEYS), {key: row[key] for key in KEYS})
        line[heading(row["metric"])] = counted(figure(row, row["metric"]), row["n"], row["not_scored"])
    attacks = [heading(metric) for metric in table["metric"].unique() if attack_of(metric)]
    order = dict.fromkeys([*attacks, *(heading(metric) for metric in HEADINGS)])
    frame = pd.DataFrame(list(lines.values())).fillna("")
    return frame[[*KEYS, *(column for column in order if column in frame)]]


def _recontrol(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in records(table):
        line = {key: row[key] for key in ("dataset", *KEYS)}
        for metric in PROMPT_METRICS:
            if row[f"{metric}_n"] or row[f"{metric}_not_scored"]:
                text = interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], percent=in_percent(metric))
                line[heading(metric)] = counted(text, row[f"{metric}_n"], row[f"{metric}_not_scored"])
        line["s per 1000 tokens"] = number(row["seconds_per_1000_tokens"])
        line["time, × base"] = number(row["relative_time"])
        line["held back, %"] = number(row["held_rate"], percent=True) if row["held_rate"] else ""
        lines.append({**line, **_printed(row, (*PROMPT_METRICS, "hours"))})
    return without_empty(pd.DataFrame(lines).fillna(""))


def _repbend(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in records(table):
        line = {key: row[key] for key in (*KEYS, "dataset", "prompts", "group", "attack")}
        line["attempts"] = str(row["attempts"]) if row["attempts"] > 1 else ""
        for name in REPBEND_OUTCOMES:
            of_benign = name == "asr" and row["prompts"] == "benign"
            line[heading(name)] = (
                "" if of_benign else interval(*(row[name + e] for e in ("", "_low", "_high")), percent=True)
            )
        line |= {"n": str(row["n"]), "not scored": str(row["not_scored"])}
        lines.append({**line, **_printed(row, ("asr", "answered"))})
    return without_empty(pd.DataFrame(lines).fillna(""))


def _gains(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in records(table):
        changed = f"{row[row['compares']]} against {row['against']}"
        other = "control" if row["compares"] == "adapter" else "adapter"
        place = " ".join(str(row[key]) for key in ("group", "attack") if row[key])
        percent = in_percent(row["metric"])
        rates = row["metric"] == "asr_reduction"
        lines.append(
            {
                "model": row["model"],
                "change": f"{changed} ({other} {row[other]})",
                "data set": row["dataset"],
                "rows": place,
                "metric": heading(row["metric"]),
                "95 % interval": counted(figure(row, row["metric"]), row["n"], row["not_scored"]),
                "from": number(row["baseline"], percent=rates) + (" %" if rates else ""),
                "to": number(row["value"], percent=rates) + (" %" if rates else ""),
                "unit": "%" if percent else "",
            }
        )
    return pd.DataFrame(lines).drop(columns="unit")


def _claims(table: pd.DataFrame) -> pd.DataFrame:
    signs = {"at_least": "≥", "at_most": "≤"}
    return pd.DataFrame(
        {
            "claim": row["text"],
            "measured": number(row["measured"]) or "not scored",
            "wanted": f"{signs[row['bound']]} {number(row['threshold']) or 'not scored'}",
            "met": "met" if row["met"] else "not met",
            "where": f"{row['table']}: {row['row']}, {row['column']}",
            "n": number_of(row["n"]),
            "not scored": number_of(row["not_scored"]),
        }
        for row in records(table)
    )


def _printed(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The paper's numbers, for the columns that the line has."""
    return {
        f"printed {heading(name)}": number(row[f"printed_{name}"], percent=in_percent(name))
        for name in names
        if f"printed_{name}" in row
    }


_SHOWN = {
    "matrix": _matrix,
    "recontrol": _recontrol,
    "repbend": _repbend,
    "gains": _gains,
    "claims": _claims,
    "win_rates": win_rate_text,
    "frontier": shown_frontier,
    **SAFETY_SHOWN,
}
