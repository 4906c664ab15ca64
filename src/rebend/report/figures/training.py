"""Figures of the training curves of adapters and value models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rebend.io.files import read_parquet
from rebend.report.figures.style import BLACK, DASHES, LINES, legend_below, panels

Panels = list[tuple[str, dict[str, str]]]  # title, column -> label

_ADAPTER_COLUMNS = ("step", "total", "grad_norm", "lr")  # besides the method's terms
_CHANGED = ("safe_norm", "unsafe_norm", "pair_norm", "change")  # terms with another scale than the rest
_VALUE_MODEL_PANELS: Panels = [
    ("loss", {"train_loss": "training", "held_out_loss": "held out"}),
    ("squared error, held out", {"held_out_error": "V against reward"}),
    (
        "rank correlation, held out",
        {"rank_first": "first token", "rank_middle": "middle", "rank_last": "last token", "rank_end": "end state"},
    ),
]


def draw_training(adapters: Sequence[Mapping[str, str]], value_models: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw the training curves of adapters and value models, one row per adapter or value model."""
    entries = [(entry, "adapter", "step") for entry in adapters]
    entries += [(entry, "value_model", "epoch") for entry in value_models]
    if not entries:
        return None
    figure, axes = panels(len(entries), 3, height=3.0 if len(entries) < 4 else 2.3)
    for row, (entry, kind, x_column) in zip(axes, entries, strict=True):
        table = read_parquet(entry["metrics"]).to_pandas()
        kind_panels = adapter_panels(table) if kind == "adapter" else _VALUE_MODEL_PANELS
        for axis, (title, curves) in zip(row, kind_panels, strict=True):
            _curves(axis, table, curves, x_column)
            axis.set_title(title)
        name = f"{entry['model']}, {kind.replace('_', ' ')} {entry[kind]}"
        row[0].set_title("\n".join(filter(None, (name, row[0].get_title("left")))))
    return figure


def adapter_panels(table: pd.DataFrame) -> Panels:
    """Return the panels of an adapter: the terms of its method that are not always zero, and their weighted sum."""
    terms = [name for name in table if name not in _ADAPTER_COLUMNS and (table[name] != 0).any()]
    first = [name for name in terms if name in _CHANGED] or terms[:1]
    second = [name for name in terms if name not in first] or ["grad_norm"]
    return [
        ("", {str(name): str(name) for name in first}),
        ("", {str(name): str(name).replace("grad_norm", "gradient norm") for name in second}),
        ("", {"total": "weighted sum"}),
    ]


def _curves(axes: Axes, table: pd.DataFrame, curves: Mapping[str, str], x_column: str) -> None:
    for i, (column, label) in enumerate(curves.items()):
        look: dict[str, Any] = {"color": LINES[i % len(LINES)], "ls": DASHES[i % len(DASHES)]}
        axes.plot(table[x_column], table[column].astype(float), lw=1.3, label=label, **look)
    if "chosen" in table and table["chosen"].any():
        axes.axvline(table.loc[table["chosen"], x_column].iloc[0], color=BLACK, lw=0.9, ls=":", label="epoch used")
    axes.set_xlabel(x_column)
    legend_below(axes)
