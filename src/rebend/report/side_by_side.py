"""Readable tables in the layout of RepBend's paper: a column per adapter, printed numbers next to measured ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from rebend.report.lines import records


def beside_paper(text: str, row: Mapping[str, Any], name: str) -> str:
    """Append the printed number.

    For an average, also append the average recomputed from the paper's cells if it differs, and the paper's average
    over the same benchmarks if ours is over fewer.
    """
    keys = (f"printed_{name}", f"paper_{name}", f"paper_{name}_recomputed")
    same, stated, cells = (None if pd.isna(row.get(key)) else row[key] for key in keys)
    parts = [_exact(same if stated is None else stated)] if (same, stated) != (None, None) else []
    if row.get(f"paper_{name}_wrong") is True:
        parts.append(f"recomputed {_exact(cells)}")
    if None not in (same, cells) and _exact(same) != _exact(cells):
        parts.append(f"same benchmarks {_exact(same)}")
    return f"{text} (paper {', '.join(parts)})".strip() if parts else text


def _exact(rate: Any) -> str:
    """Return a rate in percent with two decimals, as the paper prints it."""
    return f"{100 * float(rate):.2f}"


def side_by_side(
    table: pd.DataFrame,
    names: Callable[[Mapping[str, Any]], Mapping[str, str]],
    cell: Callable[[Mapping[str, Any]], str],
) -> pd.DataFrame:
    """Return a row per model and `names` of a row, and a column per adapter with the text of `cell`.

    If every adapter of a model has another method, columns have the printed names of methods, and models with one
    printed name (a base and the released models made from it) share their rows.
    """
    first = table.drop_duplicates(["model", "adapter"])
    named = first.assign(model=[_paper_model(row) for row in records(first)])
    by_method = "method" in table and not named.duplicated(["model", "method"]).any()
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in records(table):
        head = {"model": _paper_model(row) if by_method else row["model"], **names(row)}
        line = lines.setdefault(tuple(head.values()), dict(head))
        line[row["method"] if by_method else row["adapter"]] = cell(row)
    frame = pd.DataFrame(list(lines.values())).fillna("")
    models = list(frame["model"].unique())
    return frame.sort_values("model", key=lambda names: names.map(models.index), kind="stable")


def _paper_model(row: Mapping[str, Any]) -> str:
    name = row.get("printed_model")
    return str(row["model"] if name is None or pd.isna(name) else name)
