"""The list of figures of a study, and the figures matrix and states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rebend.io.files import read_parquet
from rebend.report.figures.frontier import draw_frontier, draw_tradeoff
from rebend.report.figures.safety import draw_asr, draw_outcomes, draw_over_refusal
from rebend.report.figures.style import BLACK, BLUE, GREY, MARKS, STYLE, VERMILLION, panels
from rebend.report.figures.training import draw_training
from rebend.report.figures.value_audit import draw_value_audit
from rebend.report.formatting import number
from rebend.report.measurements import prompting_controls


def all_figures(settings: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """Return name -> figure, from the settings of `make_figures` and its tables; figures without data are left out."""
    prompting = prompting_controls(settings["cells"])
    makers: dict[str, Callable[[], Figure | None]] = {
        "matrix": lambda: draw_matrix(tables["matrix"]),
        "asr": lambda: draw_asr(tables["matrix"], prompting),
        "over_refusal": lambda: draw_over_refusal(tables["matrix"], prompting),
        "outcomes": lambda: draw_outcomes(tables["repbend"], prompting),
        "tradeoff": lambda: draw_tradeoff(settings["strengths"]),
        "frontier": lambda: draw_frontier(tables["frontier"]),
        "states": lambda: draw_states(settings["states"]),
        "training": lambda: draw_training(settings["adapters"], settings["value_models"]),
        "value_audit": lambda: draw_value_audit(settings["value_models"]),
    }
    with mpl.rc_context(STYLE):
        drawn = {name: make() for name, make in makers.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_states(entries: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw hidden states of safe and unsafe answers before and after each adapter, in the same two directions."""
    if not entries:
        return None
    per_row = 1 if len(entries) <= 2 else 2  # adapters
    figure, axes = panels(-(-len(entries) // per_row), 2 * per_row, height=3.6 if per_row == 1 else 2.5)
    flat = [axis for row in axes for axis in row]
    for i, entry in enumerate(entries):
        _before_and_after(flat[2 * i : 2 * i + 2], entry)
    for unused in flat[2 * len(entries) :]:
        unused.set_axis_off()
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _before_and_after(pair: Sequence[Axes], entry: Mapping[str, str]) -> None:
    table = read_parquet(entry["path"]).to_pandas()
    for axis, stage in zip(pair, ("before", "after"), strict=True):
        points = table[table["stage"] == stage]
        for label, color, mark in (("safe", BLUE, MARKS[0]), ("unsafe", VERMILLION, MARKS[2])):
            shown = points[points["label"] == label]
            look: dict[str, Any] = {"s": 14, "alpha": 0.6, "lw": 0, "rasterized": len(points) > 2000}
            axis.scatter(shown["x"], shown["y"], color=color, marker=mark, label=f"{label} answers", **look)
        axis.set(xlabel="first direction")
    pair[0].set_ylabel("second direction")
    pair[0].set_title(f"{entry['model']}, before {entry['adapter']}")
    pair[1].set_title("after")
    _same_limits(pair, table)


def _same_limits(row: Sequence[Axes], table: pd.DataFrame) -> None:
    for column, name in (("x", "xlim"), ("y", "ylim")):
        low, high = table[column].min(), table[column].max()
        margin = 0.05 * ((high - low) or 1.0)
        for axes in row:
            axes.set(**{name: (low - margin, high + margin)})


def draw_matrix(matrix: pd.DataFrame) -> Figure | None:
    """Draw a heat map of adapters x controls per model and metric (ASR and mean reward).

    A heat map contains only the adapters and controls of its own cells.
    """
    metrics = {"asr": "attack success rate, %", "reward": "mean reward"}
    parts = [
        (f"{model}: {title}", metric, part)
        for metric, title in metrics.items()
        for model, part in matrix[matrix["metric"] == metric].groupby("model", sort=False)
    ]
    if not parts:
        return None
    shapes = [(part["adapter"].nunique(), part["control"].nunique()) for _, _, part in parts]
    width = max(5.0, 1.4 + 1.05 * max(controls for _, controls in shapes))
    figure, axes = panels(len(parts), 1, width=width, height=[1.1 + 0.45 * adapters for adapters, _ in shapes])
    for (axis,), (title, metric, part) in zip(axes, parts, strict=True):
        adapters, controls = (list(part[key].unique()) for key in ("adapter", "control"))
        cells = part.set_index(["adapter", "control"]).reindex(pd.MultiIndex.from_product([adapters, controls]))
        _heat(axis, cells, adapters, controls, metric == "asr")
        axis.set_title(title)
    return figure


def _heat(axes: Axes, cells: pd.DataFrame, adapters: list[str], controls: list[str], percent: bool) -> None:
    values = cells["estimate"].to_numpy(dtype=float).reshape(len(adapters), len(controls))
    known = values[np.isfinite(values)]
    low, high = (0.0, 1.0) if percent else (known.min(), known.max()) if len(known) else (0.0, 1.0)
    colors = LinearSegmentedColormap.from_list("heat", ["#FFFFFF", VERMILLION if percent else BLUE])
    axes.imshow(values, cmap=colors, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
    for i, adapter in enumerate(adapters):
        for j, control in enumerate(controls):
            cell: Any = cells.loc[(adapter, control)]
            if pd.isna(cell["estimate"]):  # all rows unscored, or no such cell in the study
                axes.text(
                    j,
                    i,
                    "not scored" if cell["not_scored"] > 0 else "–",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=GREY,
                )
                continue
            color = "white" if not percent and (values[i, j] - low) / ((high - low) or 1) > 0.6 else BLACK
            text = [number(cell[key], percent=percent) for key in ("estimate", "ci_low", "ci_high")]
            axes.text(j, i - 0.1, text[0], ha="center", va="center", color=color, weight="bold")
            ends = f"[{text[1]}, {text[2]}]" if text[1] else ""
            axes.text(j, i + 0.24, ends, ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(len(controls)), [name.replace("_", "_\n") if len(name) > 11 else name for name in controls])
    axes.set_yticks(range(len(adapters)), adapters)
    axes.set(xlabel="control", ylabel="adapter")
    axes.grid(visible=False)
    axes.tick_params(length=0)
