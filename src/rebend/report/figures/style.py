"""Style and files of the figures: equal data give equal bytes; colours suit all kinds of colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from rebend.io.files import whole_directory

# palette of Okabe and Ito: distinguishable with every kind of colour vision
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#9A9A9A"
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", "-", "--")

STYLE: Any = {  # the exact type would list all keys of matplotlib
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "svg.hashsalt": "rebend",  # otherwise each file gets new random ids
    "svg.fonttype": "path",
}


def panels(
    rows: int, columns: int, *, width: float = 9.0, height: float | Sequence[float] = 3.2
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with rows x columns axes; `height` is the height of every row, or a list of heights (inches)."""
    heights = [float(height)] * rows if isinstance(height, (int, float)) else list(height)
    figure = Figure(figsize=(width, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.1))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    return figure, [list(row) for row in axes]


def legend_below(axes: Axes, columns: int = 2) -> None:
    """Put the legend below the axes, where it covers no curve."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, borderaxespad=0.8)


def write_figures(folder: str | Path, figures: Mapping[str, Figure]) -> None:
    """Write each figure as .svg and .png."""
    with whole_directory(folder) as temporary, mpl.rc_context(STYLE):
        for name, figure in figures.items():
            figure.savefig(temporary / f"{name}.svg", metadata={"Date": None})
            figure.set_layout_engine("none")  # keep the layout of the SVG
            figure.savefig(temporary / f"{name}.png", dpi=150, metadata={"Software": None})
