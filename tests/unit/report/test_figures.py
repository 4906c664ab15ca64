"""Figures: drawn from real files, left out where there is no data, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from rebend.evaluation.intervals import wilson
from rebend.io.files import read_json, write_json, write_parquet
from rebend.report.figures.all import all_figures, draw_matrix, draw_states
from rebend.report.figures.frontier import draw_tradeoff
from rebend.report.figures.safety import draw_asr, draw_outcomes, draw_over_refusal
from rebend.report.figures.style import write_figures
from rebend.report.figures.training import adapter_panels, draw_training
from rebend.report.tables.all import all_tables
from tests.helpers.study_factory import PUBLISHED, prompts_cell, prompts_data, safety_cell, strength, study

NAMES = ["matrix", "asr", "over_refusal", "outcomes", "tradeoff", "frontier", "states", "training"]
CAPTIONS = Path(__file__).parents[3] / "workflow" / "report" / "figures.rst"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def tables(settings: dict[str, Any]) -> dict[str, pd.DataFrame]:
    return all_tables(settings)


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for axes in figure.axes for item in axes.texts]


def test_every_figure_is_drawn_and_written_twice_alike(
    settings: dict[str, Any], tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        write_figures(tmp_path / name, all_figures(settings, tables))
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == sorted(f"{name}.{end}" for name in NAMES for end in ("png", "svg"))
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one" / "asr.svg").read_text().startswith("<?xml")


def test_a_figure_without_data_is_left_out(settings: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    bare = {**settings, "strengths": [], "states": [], "adapters": [], "value_models": []}
    assert list(all_figures(bare, tables)) == ["matrix", "asr", "over_refusal", "outcomes", "frontier"]
    nothing = {name: table.iloc[:0] for name, table in tables.items()}
    assert all_figures(bare, nothing) == {}


def test_the_heat_table_shows_the_tables_numbers(tables: dict[str, pd.DataFrame]) -> None:
    figure = draw_matrix(tables["matrix"])
    assert figure is not None
    shown = texts(figure)
    assert shown.count("87.2") == 3 and shown.count("5.1") == 3
    assert shown.count("[78.0, 92.9]") == 3
    assert {"1.900", "2.100", "2.900"} <= set(shown)


def test_a_cell_that_is_missing_or_not_scored_is_not_drawn_as_zero(tables: dict[str, pd.DataFrame]) -> None:
    matrix = tables["matrix"]
    chosen = (matrix["adapter"] == "repbend") & (matrix["control"] == "random") & (matrix["metric"] == "asr")
    figure = draw_matrix(matrix[~chosen])
    assert figure is not None and "–" in texts(figure) and "not scored" not in texts(figure)
    unknown = matrix.copy()
    unknown.loc[chosen, ["estimate", "ci_low", "ci_high", "n", "not_scored"]] = [None, None, None, 0, 80]
    figure = draw_matrix(unknown)
    assert figure is not None and "not scored" in texts(figure)


def test_models_with_other_adapters_have_other_rows(tables: dict[str, pd.DataFrame]) -> None:
    other = tables["matrix"].assign(model="big", adapter=tables["matrix"]["adapter"].replace("repbend", "rmu"))
    figure = draw_matrix(pd.concat([tables["matrix"], other]))
    assert figure is not None and "–" not in texts(figure)


def test_every_adapter_has_a_point_with_its_interval_under_every_attack(tables: dict[str, pd.DataFrame]) -> None:
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


def test_what_safety_costs_is_a_point_per_adapter(tables: dict[str, pd.DataFrame]) -> None:
    figure = draw_over_refusal(tables["matrix"])
    assert figure is not None and len(figure.axes) == 2  # attacks
    points = [bars[0] for bars in figure.axes[1].containers]
    assert [(point.get_xdata()[0], point.get_ydata()[0]) for point in points] == [
        pytest.approx((0.9, 68 / 78)), pytest.approx((0.9, 4 / 78))
    ]  # fmt: skip
    alone = tables["matrix"][tables["matrix"]["adapter"] == "none"]
    assert draw_over_refusal(alone) is None  # one point compares nothing


def test_many_adapters_stay_apart(settings: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
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
    states = draw_states([{**settings["states"][0], "adapter": adapter} for adapter in adapters[1:]])
    assert states is not None and sum(axes.axison for axes in states.axes) == 18
    assert states.get_size_inches()[1] < 15


def test_training_curves_are_those_of_the_method(tmp_path: Path) -> None:
    own = {"change": [1.0, 0.5], "retain": [0.0, 0.1], "pair_norm": [0.0, 0.0]}
    table = pd.DataFrame({"step": [1, 2], **own, "total": [1.0, 0.6], "grad_norm": [1.0, 1.0], "lr": [0.1, 0.1]})
    assert [list(curves) for _, curves in adapter_panels(table)] == [["change"], ["retain"], ["total"]]
    single = table.drop(columns="retain")
    assert [list(curves) for _, curves in adapter_panels(single)] == [["change"], ["grad_norm"], ["total"]]
    write_parquet(tmp_path / "metrics.parquet", pa.Table.from_pandas(table, preserve_index=False))
    figure = draw_training([{"model": "tiny", "adapter": "rmu", "metrics": str(tmp_path / "metrics.parquet")}], [])
    assert figure is not None
    assert [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes] == ["change", "retain", "weighted sum"]


def test_the_bars_are_the_shares_of_the_outcomes(tables: dict[str, pd.DataFrame]) -> None:
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


def test_one_attack_alone_makes_one_panel(tables: dict[str, pd.DataFrame]) -> None:
    direct = tables["repbend"][tables["repbend"]["attack"] == "direct"]
    figure = draw_outcomes(direct)
    assert figure is not None and len(figure.axes) == 1


def test_adapters_without_the_control_none_are_still_drawn(tmp_path: Path) -> None:
    from tests.helpers.study_factory import evaluation_data

    cell = safety_cell(tmp_path, evaluation_data(tmp_path), "tiny", "none", "value", 3)
    found = all_tables({"cells": [cell], "paper": None, "published": PUBLISHED, "claims": [], "capabilities": []})
    assert draw_outcomes(found["repbend"]) is not None and draw_asr(found["matrix"]) is not None


def test_the_chosen_strength_and_the_breaking_point_are_marked(settings: dict[str, Any]) -> None:
    figure = draw_tradeoff(settings["strengths"][:1])
    assert figure is not None
    left, right = figure.axes
    legend = [text.get_text() for axes in (left, right) for text in axes.get_legend().get_texts()]
    assert "chosen: 1.5" in legend and "text breaks" in legend
    assert {"0", "0.25", "1.5", "3"} <= set(texts(figure))  # every step size of the grid
    broken = next(patch for patch in right.patches if patch.get_label() == "text breaks")
    assert (
        broken.get_x() == 1.75
    )  # half way from 1.5, which keeps 0.9 of the uncontrolled diversity, to 2, which does not


def test_a_control_that_never_breaks_or_is_never_chosen_is_drawn_too(tmp_path: Path) -> None:
    entry = strength(tmp_path, "tiny")
    found = read_json(entry["path"])
    table = [{**line, "diversity": 0.8} for line in found["table"]]
    write_json(entry["path"], {**found, "step_size": 0.0, "table": table})
    figure = draw_tradeoff([entry])
    assert figure is not None
    write_figures(tmp_path / "figures", {"tradeoff": figure})
    assert "text breaks" not in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


def test_a_reward_alone_makes_one_heat_table(tmp_path: Path) -> None:
    cell = prompts_cell(tmp_path, prompts_data(tmp_path), "tiny", "none", "none", 0.0)
    found = all_tables({"cells": [cell], "paper": None, "published": PUBLISHED, "claims": [], "capabilities": []})
    figure = draw_matrix(found["matrix"])
    assert figure is not None and len(figure.axes) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_caption(name: str) -> None:
    template = jinja2.Template(CAPTIONS.read_text())
    assert len(template.render(snakemake={"wildcards": {"figure": name}}).strip()) > 80


def test_data_sets_are_taken_together_and_models_stand_together(tables: dict[str, pd.DataFrame]) -> None:
    own = tables["repbend"][tables["repbend"]["group"] == "all"]
    rows = pd.concat([own.assign(model=model, dataset=data) for data in ("one", "two") for model in ("big", "small")])
    figure = draw_outcomes(rows)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["big: none", "big: repbend", "small: none", "small: repbend"]
    assert [bar.get_width() for bar in figure.axes[0].patches][:2] == pytest.approx([68 / 78, 10 / 78])
    (interval,) = {tuple(line.get_xdata()) for line in figure.axes[0].lines[:2]}
    assert interval == pytest.approx(wilson(136, 156))  # twice as many prompts
