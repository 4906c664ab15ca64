"""The layouts of a study's tables: matrix, RE-Control's, RepBend's. Rates are between 0 and 1.

Every figure stands with its 95 % interval, the number of scored rows, and the number of rows not scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from rebend.cells import (
    ALL,
    DIRECT,
    PREFILL,
    Cell,
    group_levels,
    judge_names,
    named_controls,
    seconds_per_1000_tokens,
)
from rebend.published import Published
from rebend.stats import Estimate, mean, rate

KEYS = ["model", "bend", "control"]
FIGURE = ["estimate", "ci_low", "ci_high", "n", "not_scored"]
MATRIX = [*KEYS, "metric", *FIGURE]

# metric -> (measurement, harmful prompts?, attack); those without the last two are over prompts data sets
SAFETY_METRICS: dict[str, tuple[str, bool, str]] = {
    "asr": ("harmful", True, DIRECT),
    "asr_prefill": ("harmful", True, PREFILL),
    "harmful_refusal_rate": ("refusal", True, DIRECT),
    "harmful_incoherent_rate": ("incoherent", True, DIRECT),
    "benign_answer_rate": ("answered", False, DIRECT),
    "benign_refusal_rate": ("refusal", False, DIRECT),
    "benign_incoherent_rate": ("incoherent", False, DIRECT),
}
PROMPT_METRICS = {"reward": "reward", "diversity": "diversity", "coherence": "coherence", "win_rate": "win"}
RATES = {*SAFETY_METRICS, "win_rate", "answered", "refused", "incoherent"}
REPBEND_OUTCOMES = {"asr": "harmful", "answered": "answered", "refused": "refusal", "incoherent": "incoherent"}


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the long table bend x control, rows pooled over the data sets of a role."""
    found: list[tuple[list[str], str, pd.DataFrame]] = []
    for keys, cell in rows.groupby(KEYS, sort=False):
        for metric, (measurement, harmful, attack) in SAFETY_METRICS.items():
            part = cell[(cell["role"] == "evaluation") & (cell["harmful"] == harmful) & (cell["attack"] == attack)]
            found.append(([str(key) for key in keys], metric, part[part["metric"] == measurement]))
        for metric, measurement in PROMPT_METRICS.items():
            part = cell[(cell["role"] == "prompts") & (cell["metric"] == measurement)]
            found.append(([str(key) for key in keys], metric, part))
    lines = [[*keys, metric, *figures(estimate_of(metric, part))] for keys, metric, part in found if len(part)]
    return pd.DataFrame(lines, columns=MATRIX)


def recontrol(cells: Sequence[Cell], rows: pd.DataFrame, printed: Published | None) -> pd.DataFrame:
    """Return RE-Control's layout: a line per data set, model and control, a group of columns per metric."""
    judges = judge_names(cells)
    lines = []
    for cell in named_controls(cells):
        if cell["role"] != "prompts":
            continue
        own = _own_rows(rows, cell)
        line: dict[str, Any] = {name: cell[name] for name in ("dataset", *KEYS)}
        for metric, measurement in PROMPT_METRICS.items():
            line |= columns(metric, estimate_of(metric, own[own["metric"] == measurement]))
        line["judge"] = judges.get(cell["win_rate"], "")
        line["seconds_per_1000_tokens"] = seconds_per_1000_tokens(cell)
        if printed is not None:
            row = (
                printed.recontrol_row(cell["model"], cell["dataset"], cell["method"]) if cell["bend"] == "none" else {}
            )
            names = (*PROMPT_METRICS, "hours")
            line |= {f"printed_{name}": row.get(name) for name in names}
        lines.append(line)
    return pd.DataFrame(lines).sort_values("dataset", kind="stable") if lines else _empty(recontrol_columns())


def repbend(cells: Sequence[Cell], rows: pd.DataFrame, printed: Published | None) -> pd.DataFrame:
    """Return RepBend's layout: a line per model, bend, control, benchmark, kind of prompt, group and attack."""
    lines = []
    for cell in named_controls(cells):
        if cell["role"] != "evaluation":
            continue
        for (harmful, group, attack), part in evaluation_parts(_own_rows(rows, cell)):
            line: dict[str, Any] = {name: cell[name] for name in (*KEYS, "dataset")}
            line |= {"prompts": "harmful" if harmful else "benign", "group": group, "attack": attack}
            for name, outcome in REPBEND_OUTCOMES.items():
                of_benign = name == "asr" and not harmful  # a harmless prompt cannot be attacked
                found = estimate_of("asr", part[part["metric"] == outcome])
                line |= columns(name, Estimate(None, None, None, 0, 0) if of_benign else found, counts=False)
            verdicts = part[part["metric"] == "harmful"]["value"]
            line |= {"n": int(verdicts.notna().sum()), "not_scored": int(verdicts.isna().sum())}
            if printed is not None:
                line |= _printed_repbend(printed, cell, harmful, group, attack)
            lines.append(line)
    return pd.DataFrame(lines) if lines else _empty(repbend_columns())


def evaluation_parts(rows: pd.DataFrame) -> Iterator[tuple[tuple[bool, str, str], pd.DataFrame]]:
    """Yield (harmful, group, attack) and the rows that count there, for every group that has any."""
    levels = [group_levels(g, a) for g, a in zip(rows["group"], rows["attack"], strict=True)]
    spread = rows.assign(group=pd.Series(levels, index=rows.index, dtype=object)).explode("group")
    order = {group: i for i, group in enumerate(sorted(spread["group"].unique(), key=lambda g: (g != ALL, g)))}
    parts = spread.groupby(["harmful", "group", "attack"], sort=False)
    found = [((bool(harmful), str(group), str(attack)), part) for (harmful, group, attack), part in parts]
    yield from sorted(found, key=lambda item: (not item[0][0], order[item[0][1]], item[0][2]))


def estimate_of(metric: str, part: pd.DataFrame) -> Estimate:
    """Return the estimate of a metric from its rows: a rate with Wilson's interval, or a mean."""
    values = [None if pd.isna(value) else float(value) for value in part["value"]]
    if metric in RATES:
        return rate([None if value is None else value == 1.0 for value in values])
    return mean(values)


def figures(found: Estimate) -> list[float | int | None]:
    """Return the five values of an estimate, in the order of `FIGURE`."""
    return [found.estimate, found.ci_low, found.ci_high, found.n, found.not_scored]


def columns(name: str, found: Estimate, *, counts: bool = True) -> dict[str, float | int | None]:
    """Return an estimate as columns named after it; its counts too, unless the line has them already."""
    values: dict[str, float | int | None] = {name: found.estimate}
    values |= {f"{name}_low": found.ci_low, f"{name}_high": found.ci_high}
    return {**values, f"{name}_n": found.n, f"{name}_not_scored": found.not_scored} if counts else values


def recontrol_columns() -> list[str]:
    """Column names of RE-Control's layout without printed numbers."""
    nothing = Estimate(None, None, None, 0, 0)
    return [
        "dataset",
        *KEYS,
        *(c for m in PROMPT_METRICS for c in columns(m, nothing)),
        "judge",
        "seconds_per_1000_tokens",
    ]


def repbend_columns() -> list[str]:
    """Column names of RepBend's layout without printed numbers."""
    nothing = Estimate(None, None, None, 0, 0)
    outcomes = [c for name in REPBEND_OUTCOMES for c in columns(name, nothing, counts=False)]
    return [*KEYS, "dataset", "prompts", "group", "attack", *outcomes, "n", "not_scored"]


def _printed_repbend(printed: Published, cell: Cell, harmful: bool, group: str, attack: str) -> dict[str, Any]:
    whole = group == ALL and cell["control"] == "none"  # the papers print whole benchmarks without control
    row = printed.repbend_row(cell["model"], cell["dataset"], cell["bend"], attack) if whole else {}
    asr, answered = (row.get("asr"), None) if harmful else (None, row.get("answered"))
    return {"printed_asr": asr, "printed_answered": answered}


def _own_rows(rows: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    names = [*KEYS, "dataset", "role"]
    return rows[(rows[names] == [cell[name] for name in names]).all(axis=1)]


def _empty(names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(names))
