"""Rows of tables: estimates as columns, parts of a study that have a row each, printed numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, geometric_mean, mean, rate
from rebend.report.formatting import number
from rebend.report.measurements import group_levels
from rebend.report.metrics import ALL, Metric, heading, in_percent

ESTIMATE = ["estimate", "ci_low", "ci_high", "n", "clusters", "seeds", "not_scored"]
NOTHING = Estimate(None, None, None, 0, 0)


def estimate_of(metric: Metric, rows: pd.DataFrame) -> Estimate:
    """Return the estimate of a metric: a rate with Wilson's interval, or a mean with a bootstrap interval.

    The mean of a metric of logarithms is the geometric mean.

    The intervals are over clusters of prompts and over training seeds (`rebend.evaluation.intervals`).
    """
    values, keys = listed(rows["value"]), (list(rows["cluster"]), list(rows["seed"]))
    if metric.is_rate:
        return rate([None if value is None else value == 1.0 for value in values], *keys)
    return geometric_mean(values, *keys) if metric.is_log else mean(values, *keys)


def measured(metric: Metric, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of a metric, under all attacks."""
    chosen = rows[(rows["measurement"] == metric.measured.name) & (rows["role"] == metric.role)]
    return chosen if metric.harmful is None else chosen[chosen["harmful"] == metric.harmful]


def listed(values: pd.Series) -> list[float | None]:
    """Return a column as numbers, with None for NaN."""
    return [None if pd.isna(value) else float(value) for value in values]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def estimate_values(estimate: Estimate) -> list[float | int | None]:
    """Return the values of an estimate, in the order of `ESTIMATE`."""
    counts = [estimate.n, clusters_of(estimate), estimate.seeds, estimate.not_scored]
    return [estimate.estimate, estimate.ci_low, estimate.ci_high, *counts]


def clusters_of(estimate: Estimate) -> int:
    """Return the number of independent clusters of rows: of rows, if none were named."""
    return estimate.n if estimate.clusters is None else estimate.clusters


def columns(name: str, estimate: Estimate, *, counts: bool = True) -> dict[str, float | int | None]:
    """Return an estimate as columns `name`, `name_low`, `name_high`; with `counts` also its numbers of rows."""
    values: dict[str, float | int | None] = {name: estimate.estimate}
    values |= {f"{name}_low": estimate.ci_low, f"{name}_high": estimate.ci_high}
    if not counts:
        return values
    values |= {f"{name}_n": estimate.n, f"{name}_clusters": clusters_of(estimate), f"{name}_seeds": estimate.seeds}
    return {**values, f"{name}_not_scored": estimate.not_scored}


def column_names(name: str, *, counts: bool = True) -> list[str]:
    """Return the names of the columns of an estimate."""
    return list(columns(name, NOTHING, counts=counts))


def evaluation_parts(rows: pd.DataFrame) -> Iterator[tuple[tuple[bool, str, str], pd.DataFrame]]:
    """Yield (harmful, group, attack) with its rows; a row belongs to each level of its group (`group_levels`)."""
    levels = [group_levels(group) for group in rows["group"]]
    spread = rows.assign(group=pd.Series(levels, index=rows.index, dtype=object)).explode("group")
    order = {group: i for i, group in enumerate(sorted(spread["group"].unique(), key=lambda g: (g != ALL, g)))}
    grouped = spread.groupby(["harmful", "group", "attack"], sort=False)
    parts = [((bool(harmful), str(group), str(attack)), part) for (harmful, group, attack), part in grouped]
    yield from sorted(
        parts, key=lambda item: (not item[0][0], order[item[0][1]])
    )  # attacks keep the order of the study


def datasets(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield all rows, then the rows of each data set if there are several."""
    yield ALL, rows
    names = rows["dataset"].unique()
    if len(names) > 1:
        for name in names:
            yield str(name), rows[rows["dataset"] == name]


def printed_columns(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Return the paper's numbers as text, for the printed columns of a row."""
    return {
        f"printed {heading(name)}": number(row[f"printed_{name}"], percent=in_percent(name))
        for name in names
        if f"printed_{name}" in row
    }
