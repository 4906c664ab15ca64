"""Numbers as text: estimates with intervals, rates in percent, counts of unscored prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rebend.report.metrics import in_percent


def number(value: Any, *, percent: bool = False) -> str:
    """Return a number with three decimals, or in percent with one decimal; "" if it is unknown."""
    if value is None or pd.isna(value):
        return ""
    return f"{100 * float(value):.1f}" if percent else f"{float(value):.3f}"


def interval(estimate: Any, low: Any, high: Any, *, percent: bool = False) -> str:
    """Return "estimate [low, high]", or "not scored" without an estimate."""
    if estimate is None or pd.isna(estimate):
        return "not scored"
    ends = [number(end, percent=percent) for end in (low, high)]
    return number(estimate, percent=percent) + (f" [{ends[0]}, {ends[1]}]" if all(ends) else "")


def counted(text: str, row: Mapping[str, Any], name: str = "") -> str:
    """Append the counts of the estimate `name` (without: of the row).

    These are the number of scored rows; those of clusters and of training seeds where they say more; and that of
    unscored rows if there are any.
    """
    head = f"{name}_" if name else ""
    n, not_scored = row[f"{head}n"], row[f"{head}not_scored"]
    if n is None or pd.isna(n):
        return text
    parts = [f"n {int(n)}", *groups_text(row, name)]
    return f"{text} ({', '.join(parts)}" + (f", {int(not_scored)} not scored)" if not_scored else ")")


def groups_text(row: Mapping[str, Any], name: str = "") -> list[str]:
    """Return the number of clusters if it differs from that of rows, and the number of training seeds if above one."""
    n, clusters, seeds = (row.get(f"{name}_{key}" if name else key) for key in ("n", "clusters", "seeds"))
    parts = [f"{int(clusters)} clusters"] if clusters is not None and not pd.isna(clusters) and clusters != n else []
    return parts + ([f"{int(seeds)} seeds"] if seeds is not None and not pd.isna(seeds) and seeds > 1 else [])


def number_of(count: Any) -> str:
    """Return a count as text; "" if it is unknown."""
    return "" if count is None or pd.isna(count) else str(int(count))


def figure(row: Mapping[str, Any], metric: str) -> str:
    """Return the estimate in the columns `estimate`, `ci_low` and `ci_high` of a row."""
    return interval(row["estimate"], row["ci_low"], row["ci_high"], percent=in_percent(metric))


def estimate_text(row: Mapping[str, Any], name: str, *, percent: bool) -> str:
    """Return the estimate in the columns `name`, `name_low` and `name_high` of a row."""
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], percent=percent)


def has_rows(row: Mapping[str, Any], name: str) -> bool:
    """Return whether the estimate `name` has any measurement, scored or not."""
    return bool(row[f"{name}_n"] or row[f"{name}_not_scored"])


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table without empty columns."""
    return frame.loc[:, (frame != "").any()]
