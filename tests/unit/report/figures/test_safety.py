"""Figures of the safety evaluation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rebend.evaluation.intervals import wilson
from rebend.report.figures.safety import draw_asr, draw_outcomes, draw_over_refusal
from tests.helpers.study_factory import evaluation_data, safety_cell
from tests.helpers.study_tables import make_tables


def test_asr_has_a_point_with_interval_per_adapter_and_attack(tables: dict[str, pd.DataFrame]) -> None:
    figure = draw_asr(tables["matrix"])
    assert figure is not None
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "repbend"]
    assert [bars.get_label() for bars in axes.containers] == ["direct", "prefilling"]
    points, _, (intervals,) = axes.containers[0]
    assert list(points.get_xdata()) == pytest.approx([68 / 78, 4 / 78])
    assert [list(ends[:, 0]) for ends in intervals.get_segments()] == [
        pytest.approx(wilson(hits, 78)) for hits in (68, 4)
    ]


def test_over_refusal_has_a_point_per_adapter(tables: dict[str, pd.DataFrame]) -> None:
    figure = draw_over_refusal(tables["matrix"])
    assert figure is not None and len(figure.axes) == 2  # attacks
    points = [bars[0] for bars in figure.axes[1].containers]
    assert [(point.get_xdata()[0], point.get_ydata()[0]) for point in points] == [
        pytest.approx((0.9, 68 / 78)), pytest.approx((0.9, 4 / 78))
    ]  # fmt: skip
    alone = tables["matrix"][tables["matrix"]["adapter"] == "none"]
    assert draw_over_refusal(alone) is None  # a single point is no comparison


def test_many_adapters_have_distinct_looks_and_labels(tables: dict[str, pd.DataFrame]) -> None:
    adapters = ["none", "repbend", *(f"other_{i}" for i in range(8))]
    base = tables["matrix"][tables["matrix"]["adapter"] == "none"]
    many = pd.concat([base.assign(adapter=adapter) for adapter in adapters])
    figure = draw_over_refusal(many)
    assert figure is not None
    looks = {(bars[0].get_color(), bars[0].get_marker()) for bars in figure.axes[0].containers}
    assert len(looks) == 10
    rows = pd.concat(
        [tables["repbend"][tables["repbend"]["adapter"] == "none"].assign(adapter=adapter) for adapter in adapters]
    )
    outcomes = draw_outcomes(rows)
    assert outcomes is not None
    assert [label.get_text() for label in outcomes.axes[0].get_yticklabels()] == adapters  # of all groups together


def test_bars_of_outcomes_have_the_lengths_of_their_shares(tables: dict[str, pd.DataFrame]) -> None:
    figure = draw_outcomes(tables["repbend"])
    assert figure is not None and len(figure.axes) == 2
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        f"{group}: {adapter}" for group in ("all", "unseen item", "unseen phrasing") for adapter in ("none", "repbend")
    ]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[:4] == pytest.approx([68 / 78, 10 / 78, 0.0, 0.0])
    assert widths[4:8] == pytest.approx([4 / 78, 10 / 78, 64 / 78, 0.0])


def test_outcomes_of_one_attack_have_one_panel(tables: dict[str, pd.DataFrame]) -> None:
    direct = tables["repbend"][tables["repbend"]["attack"] == "direct"]
    figure = draw_outcomes(direct)
    assert figure is not None and len(figure.axes) == 1


def test_adapters_with_controlled_cells_only_are_drawn(tmp_path: Path) -> None:
    cell = safety_cell(tmp_path, evaluation_data(tmp_path), "tiny", "none", "value", 3)
    tables = make_tables([cell])
    assert draw_outcomes(tables["repbend"]) is not None and draw_asr(tables["matrix"]) is not None


def test_outcomes_pool_data_sets_and_are_sorted_by_model(tables: dict[str, pd.DataFrame]) -> None:
    whole = tables["repbend"][tables["repbend"]["group"] == "all"]
    rows = pd.concat([whole.assign(model=model, dataset=data) for data in ("one", "two") for model in ("big", "small")])
    figure = draw_outcomes(rows)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["big: none", "big: repbend", "small: none", "small: repbend"]
    assert [bar.get_width() for bar in figure.axes[0].patches][:2] == pytest.approx([68 / 78, 10 / 78])
    (interval,) = {tuple(line.get_xdata()) for line in figure.axes[0].lines[:2]}
    assert interval == pytest.approx(wilson(136, 156))  # twice as many prompts
