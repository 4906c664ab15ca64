"""The adapters of a model side by side, and the paper's numbers beside ours, as RepBend's tables have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from rebend.report.lines import records


def beside_paper(text: str, row: Mapping[str, Any], name: str) -> str:
    """Append what the paper prints.

    Of an average also what its own cells give, where that is something else, and its cells of the same benchmarks,
    where ours is over fewer.
    """
    keys = (f"printed_{name}", f"paper_{name}", f"paper_{name}_recomputed")
    same, stated, cells = (None if pd.isna(row.get(key)) else row[key] for key in keys)
    parts = [_exact(same if stated is None else stated)] if (same, stated) != (None, None) else []
    if row.get(f"paper_{name}_wrong") is True:
        parts.append(f"its cells {_exact(cells)}")
    if None not in (same, cells) and _exact(same) != _exact(cells):
        parts.append(f"of the same {_exact(same)}")
    return f"{text} (paper {', '.join(parts)})".strip() if parts else text


def _exact(rate: Any) -> str:
    """Return a printed rate with the paper's own two digits."""
    return f"{100 * float(rate):.2f}"


def side_by_side(
    table: pd.DataFrame,
    place: Callable[[Mapping[str, Any]], Mapping[str, str]],
    cell: Callable[[Mapping[str, Any]], str],
) -> pd.DataFrame:
    """Return a line per model and place, a column per adapter.

    Where the methods tell the adapters apart, columns have the paper's names of the methods, and models that the paper
    prints under one name (a base, and models that others made of it) share their lines.
    """
    first = table.drop_duplicates(["model", "adapter"])
    named = first.assign(model=[_paper_model(row) for row in records(first)])
    by_method = "method" in table and not named.duplicated(["model", "method"]).any()
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in records(table):
        where = {"model": _paper_model(row) if by_method else row["model"], **place(row)}
        line = lines.setdefault(tuple(where.values()), dict(where))
        line[row["method"] if by_method else row["adapter"]] = cell(row)
    frame = pd.DataFrame(list(lines.values())).fillna("")
    models = list(frame["model"].unique())
    return frame.sort_values("model", key=lambda names: names.map(models.index), kind="stable")


def _paper_model(row: Mapping[str, Any]) -> str:
    name = row.get("printed_model")
    return str(row["model"] if name is None or pd.isna(name) else name)
