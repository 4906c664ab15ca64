"""The layouts of a study's tables: matrix, RE-Control's, RepBend's. Rates are between 0 and 1.

Every figure stands with its 95 % interval, the number of scored rows, and the number of rows not scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, mean, rate
from rebend.report.measurements import (
    ALL,
    DIRECT,
    SAFETY_PROMPT,
    Cell,
    as_methods,
    group_levels,
    held_rate,
    judge_names,
    named_controls,
    relative_times,
    seconds_per_1000_tokens,
)
from rebend.report.published import Published

KEYS = ["model", "adapter", "control"]
CELL = [*KEYS, "dataset", "role", "attack"]  # what tells cells apart
FIGURE = ["estimate", "ci_low", "ci_high", "n", "not_scored"]
MATRIX = [*KEYS, "metric", *FIGURE]

# metric -> (measurement, harmful prompts?), of prompts asked directly; the ASR is taken for each attack
DIRECT_METRICS: dict[str, tuple[str, bool]] = {
    "harmful_refusal_rate": ("refusal", True),
    "harmful_incoherent_rate": ("incoherent", True),
    "benign_answer_rate": ("answered", False),
    "benign_refusal_rate": ("refusal", False),
    "benign_incoherent_rate": ("incoherent", False),
}
PROMPT_METRICS = {
    "reward": "reward",
    "heldout_reward": "heldout_reward",
    "diversity": "diversity",
    "coherence": "coherence",
    "win_rate": "win",
}
RATES = {*DIRECT_METRICS, "win_rate", "answered", "refused", "incoherent"}
CATEGORIES = [*KEYS, "dataset", "attack", "category", "metric", *FIGURE]
REPBEND_OUTCOMES = {"asr": "harmful", "answered": "answered", "refused": "refusal", "incoherent": "incoherent"}


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the long table adapter x control, rows pooled over the data sets of a role."""
    lines = [
        [*keys, metric, *figures(estimate_of(metric, part))]
        for keys, cell in rows.groupby(KEYS, sort=False)
        for metric, part in _matrix_parts(cell)
        if len(part)
    ]
    return pd.DataFrame(lines, columns=MATRIX)


def _matrix_parts(cell: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The metrics of one model under one control, with the rows that each is taken over."""
    evaluated = cell[cell["role"] == "evaluation"]
    attacked = evaluated[(evaluated["harmful"] == True) & (evaluated["metric"] == "harmful")]  # noqa: E712
    for attack, part in attacked.groupby("attack", sort=False):
        yield asr_name(str(attack)), part
    direct = evaluated[evaluated["attack"] == DIRECT]
    for metric, (measurement, harmful) in DIRECT_METRICS.items():
        yield metric, direct[(direct["harmful"] == harmful) & (direct["metric"] == measurement)]
    for metric, measurement in PROMPT_METRICS.items():
        yield metric, cell[(cell["role"] == "prompts") & (cell["metric"] == measurement)]


def asr_name(attack: str) -> str:
    """Return the metric that an attack's success rate is called: `asr` if asked directly, else `asr_{attack}`."""
    return "asr" if attack == DIRECT else f"asr_{attack}"


def is_rate(metric: str) -> bool:
    """Tell whether a metric is a share of rows, which has a Wilson interval."""
    return metric in RATES or attack_of(metric) is not None


def attack_of(metric: str) -> str | None:
    """Return the attack whose success rate a metric is, or None if it is another metric."""
    if metric == "asr":
        return DIRECT
    return metric.removeprefix("asr_") if metric.startswith("asr_") and metric != "asr_reduction" else None


def recontrol(cells: Sequence[Cell], rows: pd.DataFrame, printed: Published | None) -> pd.DataFrame:
    """Return RE-Control's layout: a line per data set, model and control, a group of columns per metric."""
    judges, by_cell, times = judge_names(cells), _rows_by_cell(rows), relative_times(cells)
    lines = []
    for cell in named_controls(cells):
        if cell["role"] != "prompts":
            continue
        own = by_cell.get(_key(cell), rows.iloc[:0])
        line: dict[str, Any] = {name: cell[name] for name in ("dataset", *KEYS)}
        for metric, measurement in PROMPT_METRICS.items():
            line |= columns(metric, estimate_of(metric, own[own["metric"] == measurement]))
        line["judge"] = judges.get(cell["win_rate"], "")
        line |= {"seconds_per_1000_tokens": seconds_per_1000_tokens(cell), "relative_time": times[cell["record"]]}
        line["held_rate"] = held_rate(cell)
        if printed is not None:
            row = (
                printed.recontrol_row(cell["model"], cell["dataset"], cell["method"])
                if cell["adapter"] == "none"
                else {}
            )
            names = (*PROMPT_METRICS, "hours")
            line |= {f"printed_{name}": row.get(name) for name in names}
        lines.append(line)
    return pd.DataFrame(lines).sort_values("dataset", kind="stable") if lines else _empty(recontrol_columns())


def repbend(cells: Sequence[Cell], rows: pd.DataFrame, printed: Published | None) -> pd.DataFrame:
    """Return RepBend's layout: a line per model, adapter, control, benchmark, kind of prompt, group and attack."""
    by_cell, lines = _rows_by_cell(rows), []
    for cell in named_controls(cells):
        if cell["role"] != "evaluation":
            continue
        for (harmful, group, attack), part in evaluation_parts(by_cell.get(_key(cell), rows.iloc[:0])):
            line: dict[str, Any] = {name: cell[name] for name in (*KEYS, "dataset")}
            line |= {"prompts": "harmful" if harmful else "benign", "group": group, "attack": attack}
            line["attempts"] = int(part["attempts"].max())
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
    levels = [group_levels(group) for group in rows["group"]]
    spread = rows.assign(group=pd.Series(levels, index=rows.index, dtype=object)).explode("group")
    order = {group: i for i, group in enumerate(sorted(spread["group"].unique(), key=lambda g: (g != ALL, g)))}
    parts = spread.groupby(["harmful", "group", "attack"], sort=False)
    found = [((bool(harmful), str(group), str(attack)), part) for (harmful, group, attack), part in parts]
    yield from sorted(found, key=lambda item: (not item[0][0], order[item[0][1]]))  # attacks: in the study's order


def datasets(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield all rows, then those of each data set if there are several."""
    yield ALL, rows
    names = rows["dataset"].unique()
    if len(names) > 1:
        for name in names:
            yield str(name), rows[rows["dataset"] == name]


def repbend_categories(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ASR and benign answer rate in each category that a data set names, without control.

    A line per model, adapter, data set, attack and category; `metric` is asr or benign_answer_rate.
    """
    named = rows[(rows["role"] == "evaluation") & (rows["category"] != "")]
    lines = []
    for metric, measurement, harmful in (("asr", "harmful", True), ("benign_answer_rate", "answered", False)):
        own = as_methods(named[(named["metric"] == measurement) & (named["harmful"] == harmful)])
        parts = own.groupby([*KEYS, "dataset", "attack", "category"], sort=False)
        found = [[*keys, metric, *figures(estimate_of(metric, part))] for keys, part in parts]
        lines += sorted(found, key=lambda line: str(line[CATEGORIES.index("category")]))
    return pd.DataFrame(lines, columns=CATEGORIES)


def estimate_of(metric: str, part: pd.DataFrame) -> Estimate:
    """Return the estimate of a metric from its rows: a rate with Wilson's interval, or a mean."""
    values = [None if pd.isna(value) else float(value) for value in part["value"]]
    if is_rate(metric):
        return rate([None if value is None else value == 1.0 for value in values])
    return mean(values)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the lines of a table."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


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
        "relative_time",
        "held_rate",
    ]


def repbend_columns() -> list[str]:
    """Column names of RepBend's layout without printed numbers."""
    nothing = Estimate(None, None, None, 0, 0)
    outcomes = [c for name in REPBEND_OUTCOMES for c in columns(name, nothing, counts=False)]
    return [*KEYS, "dataset", "prompts", "group", "attack", "attempts", *outcomes, "n", "not_scored"]


def _printed_repbend(printed: Published, cell: Cell, harmful: bool, group: str, attack: str) -> dict[str, Any]:
    prompted = cell["adapter"] == "none" and SAFETY_PROMPT in cell["control"]
    whole = group == ALL and (cell["control"] == "none" or prompted)  # the paper prints whole benchmarks, these ways
    adapter = cell["control"] if prompted else cell["adapter"]
    row = printed.repbend_row(cell["model"], cell["dataset"], adapter, attack) if whole else {}
    asr, answered = (row.get("asr"), None) if harmful else (None, row.get("answered"))
    return {"printed_asr": asr, "printed_answered": answered}


def _rows_by_cell(rows: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return dict(iter(rows.groupby(CELL, sort=False)))


def _key(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell[name] for name in CELL)


def _empty(names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(names))
