"""Reward against time: relative to no control, by exactly counted compute, and which controls nothing beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from rebend.io.files import read_json, write_json
from rebend.report.figures.frontier import curves_of, draw_frontier, draw_tradeoff
from rebend.report.figures.style import write_figures
from rebend.report.measurements import measurements, relative_times
from rebend.report.tables import frontier, recontrol
from rebend.report.tables.table import Inputs
from tests.helpers.study_factory import prompts_cell, prompts_data, strength

# control -> (method, seconds, tokens returned, tokens generated, candidates scored, reward above that of none)
COSTS: dict[str, tuple[str, float, int, int, int, float]] = {
    "none": ("none", 2.0, 1000, 1000, 0, 0.0),
    "value": ("value", 2.2, 1000, 1000, 0, 1.0),
    "slow": ("value_prompting", 4.4, 1000, 1000, 0, 0.5),
    "best_of_4": ("best_of_n", 8.0, 1000, 4100, 0, 1.5),
    "search": ("cd_prefix", 6.0, 1000, 1000, 4100, 0.9),
}


@pytest.fixture
def cells(tmp_path: Path) -> list[dict[str, Any]]:
    return [cell for adapter in ("none", "repbend") for cell in made(tmp_path, adapter)]


def made(folder: Path, adapter: str) -> list[dict[str, Any]]:
    data, found = prompts_data(folder), []
    for control, (method, seconds, tokens, generated, candidates, shift) in COSTS.items():
        cell = prompts_cell(folder, data, "tiny", adapter, control, shift, method=method)
        record = read_json(cell["record"])
        record["notes"] = {"decode_seconds": seconds, "tokens": tokens}
        record["notes"] |= {"tokens_generated": generated, "candidates_scored": candidates}
        write_json(cell["record"], record)
        found.append(cell)
    return found


def table_of(cells: list[dict[str, Any]]) -> pd.DataFrame:
    return frontier.compute(Inputs(cells, measurements(cells)))


def test_time_is_relative_to_the_same_model_without_control(cells):
    table = table_of(cells)
    own = table[table["adapter"] == "none"].set_index("control")
    assert own["relative_time"].to_dict() == pytest.approx(
        {"none": 1.0, "value": 1.1, "slow": 2.2, "best_of_4": 4.0, "search": 3.0}
    )
    assert own["seconds_per_1000_tokens"]["value"] == pytest.approx(2.2)
    assert list(own.index) == ["none", "value", "slow", "search", "best_of_4"]  # the fastest first
    beside = recontrol.compute(Inputs(cells, measurements(cells))).set_index(["adapter", "control"])
    assert beside.loc[("repbend", "search"), "relative_time"] == pytest.approx(3.0)


def test_an_adapter_without_an_uncontrolled_row_is_timed_against_the_base(cells):
    kept = [cell for cell in cells if cell["adapter"] == "none" or cell["control"] == "value"]
    table = table_of(kept)
    assert table[table["adapter"] == "repbend"]["relative_time"].tolist() == pytest.approx([1.1])
    alone = table_of([cell for cell in cells if cell["control"] == "value"])
    assert alone["relative_time"].isna().all()


def test_compute_counts_what_is_thrown_away(cells):
    by_control = {cell["control"]: frontier.policy_tokens(cell) for cell in cells if cell["adapter"] == "none"}
    assert by_control == pytest.approx({"none": 1.0, "value": 1.0, "slow": 1.0, "best_of_4": 4.1, "search": 5.1})


def test_a_resumed_run_has_no_time_and_is_on_no_frontier(cells):
    record = read_json(cells[1]["record"])
    del record["notes"]["decode_seconds"]
    write_json(cells[1]["record"], record)
    assert relative_times(cells)[cells[1]["record"]] is None
    own = table_of(cells)
    line = own[(own["adapter"] == "none") & (own["control"] == "value")].iloc[0]
    assert pd.isna(line["relative_time"]) and line["on_frontier"] is None
    assert line["reward"] == pytest.approx(1.9 + 1.0)  # its reward is known all the same


def test_only_controls_that_nothing_beats_are_on_the_frontier(cells):
    table = table_of(cells)
    for adapter in ("none", "repbend"):
        own = table[table["adapter"] == adapter]
        assert set(own[own["on_frontier"].eq(True)]["control"]) == {"none", "value", "best_of_4"}
    shown = frontier.text(table)
    assert (shown["on the frontier"] == "yes").sum() == 6
    assert {"reward", "held-out reward", "win rate, %"} <= set(shown)


def test_the_held_out_reward_stands_beside_the_one_that_is_climbed(cells):
    """More of the one and less of the other is what gaming a reward looks like: the columns must not be swapped."""
    own = table_of(cells).set_index(["adapter", "control"]).loc["none"]
    assert own.loc["best_of_4", "reward"] - own.loc["none", "reward"] == pytest.approx(1.5)
    assert own.loc["best_of_4", "heldout_reward"] - own.loc["none", "heldout_reward"] == pytest.approx(-1.5)


def test_the_figure_shows_every_control_at_its_time(cells, tmp_path):
    table = table_of(cells)
    figure = draw_frontier(table)
    assert figure is not None and len(figure.axes) == 2 * 3
    points = [bars for bars in figure.axes[0].containers if isinstance(bars, ErrorbarContainer)]
    places = {bars.get_label(): float(bars.lines[0].get_xdata()[0]) for bars in points}
    assert places == pytest.approx({"none": 1.0, "value": 1.1, "slow": 2.2, "search": 3.0, "best_of_4": 4.0})
    write_figures(tmp_path / "figures", {"frontier": figure})
    assert draw_frontier(table.iloc[:0]) is None


def test_each_number_of_steps_has_its_own_curve(tmp_path):
    entry = strength(tmp_path, "tiny")
    found = read_json(entry["path"])
    base, *tried = found["table"]
    table = [{**base, "n_steps": 10}, *({**line, "n_steps": n} for n in (10, 30) for line in tried)]
    write_json(entry["path"], {**found, "table": table, "n_steps": 30})
    curves = curves_of(pd.DataFrame(table))
    assert list(curves) == [10, 30]
    assert all(list(curve["step_size"]) == [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0] for curve in curves.values())
    figure = draw_tradeoff([entry])
    assert figure is not None
    legend = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert {"n = 10", "n = 30", "chosen: 1.5, n = 30", "diversity, n = 10", "coherence, n = 30"} <= set(legend)


def test_a_weight_is_called_a_weight(tmp_path):
    entry = strength(tmp_path, "tiny")
    found = read_json(entry["path"])
    lines = [{**line, "n_steps": None} for line in found["table"]]
    write_json(entry["path"], {**found, "table": lines, "n_steps": None, "strength": "weight"})
    figure = draw_tradeoff([entry])
    assert figure is not None and figure.axes[1].get_xlabel() == "weight"
