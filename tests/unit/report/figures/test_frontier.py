"""Figures of reward against time, and of reward and diversity by strength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from rebend.io.files import read_json, write_json
from rebend.report.figures.frontier import curves_of, draw_frontier, draw_tradeoff
from rebend.report.figures.style import write_figures
from rebend.report.measurements import measurements
from rebend.report.tables import frontier
from rebend.report.tables.table import Inputs
from tests.helpers.study_factory import strength
from tests.helpers.study_tables import timed_cells


def test_frontier_draws_each_control_at_its_relative_time(tmp_path):
    cells = [cell for adapter in ("none", "repbend") for cell in timed_cells(tmp_path, adapter)]
    table = frontier.compute(Inputs(cells, measurements(cells)))
    figure = draw_frontier(table)
    assert figure is not None and len(figure.axes) == 2 * 3
    points = [bars for bars in figure.axes[0].containers if isinstance(bars, ErrorbarContainer)]
    places = {bars.get_label(): float(bars.lines[0].get_xdata()[0]) for bars in points}
    assert places == pytest.approx({"none": 1.0, "value": 1.1, "slow": 2.2, "search": 3.0, "best_of_4": 4.0})
    write_figures(tmp_path / "figures", {"frontier": figure})
    assert draw_frontier(table.iloc[:0]) is None


def test_each_number_of_steps_has_a_curve(tmp_path):
    entry = strength(tmp_path, "tiny")
    choice = read_json(entry["path"])
    base, *others = choice["table"]
    table = [{**base, "n_steps": 10}, *({**line, "n_steps": n} for n in (10, 30) for line in others)]
    write_json(entry["path"], {**choice, "table": table, "n_steps": 30})
    curves = curves_of(pd.DataFrame(table))
    assert list(curves) == [10, 30]
    assert all(list(curve["step_size"]) == [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0] for curve in curves.values())
    figure = draw_tradeoff([entry])
    assert figure is not None
    legend = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert {"n = 10", "n = 30", "chosen: 1.5, n = 30", "diversity, n = 10", "coherence, n = 30"} <= set(legend)


def test_axis_is_labelled_weight_if_the_strength_is_a_weight(tmp_path):
    entry = strength(tmp_path, "tiny")
    choice = read_json(entry["path"])
    lines = [{**line, "n_steps": None} for line in choice["table"]]
    write_json(entry["path"], {**choice, "table": lines, "n_steps": None, "strength": "weight"})
    figure = draw_tradeoff([entry])
    assert figure is not None and figure.axes[1].get_xlabel() == "weight"


def test_chosen_strength_and_broken_range_are_marked(settings: dict[str, Any]) -> None:
    figure = draw_tradeoff(settings["strengths"][:1])
    assert figure is not None
    left, right = figure.axes
    legend = [text.get_text() for axes in (left, right) for text in axes.get_legend().get_texts()]
    assert "chosen: 1.5" in legend and "broken text" in legend
    step_sizes = {text.get_text() for text in left.texts}
    assert {"0", "0.25", "1.5", "3"} <= step_sizes  # every step size of the grid
    broken = next(patch for patch in right.patches if patch.get_label() == "broken text")
    assert broken.get_x() == 1.75  # halfway between 1.5, the last unbroken step size, and 2


def test_control_that_keeps_diversity_has_no_broken_range(tmp_path: Path) -> None:
    entry = strength(tmp_path, "tiny")
    choice = read_json(entry["path"])
    table = [{**line, "diversity": 0.8} for line in choice["table"]]
    write_json(entry["path"], {**choice, "step_size": 0.0, "table": table})
    figure = draw_tradeoff([entry])
    assert figure is not None
    write_figures(tmp_path / "figures", {"tradeoff": figure})
    assert "broken text" not in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
