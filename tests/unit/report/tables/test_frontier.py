"""The table frontier: relative time, policy tokens, and the frontier of reward and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rebend.io.files import read_json, write_json
from rebend.report.measurements import measurements, relative_times
from rebend.report.tables import frontier, recontrol
from rebend.report.tables.table import Inputs
from tests.helpers.study_tables import timed_cells


@pytest.fixture
def cells(tmp_path: Path) -> list[dict[str, Any]]:
    return [cell for adapter in ("none", "repbend") for cell in timed_cells(tmp_path, adapter)]


def table_of(cells: list[dict[str, Any]]) -> pd.DataFrame:
    return frontier.compute(Inputs(cells, measurements(cells)))


def test_time_is_relative_to_the_same_model_without_control(cells):
    table = table_of(cells)
    rows = table[table["adapter"] == "none"].set_index("control")
    assert rows["relative_time"].to_dict() == pytest.approx(
        {"none": 1.0, "value": 1.1, "slow": 2.2, "best_of_4": 4.0, "search": 3.0}
    )
    assert rows["seconds_per_1000_tokens"]["value"] == pytest.approx(2.2)
    assert list(rows.index) == ["none", "value", "slow", "search", "best_of_4"]  # sorted by time
    beside = recontrol.compute(Inputs(cells, measurements(cells))).set_index(["adapter", "control"])
    assert beside.loc[("repbend", "search"), "relative_time"] == pytest.approx(3.0)


def test_time_is_relative_to_the_base_if_the_adapter_has_no_uncontrolled_row(cells):
    kept = [cell for cell in cells if cell["adapter"] == "none" or cell["control"] == "value"]
    table = table_of(kept)
    assert table[table["adapter"] == "repbend"]["relative_time"].tolist() == pytest.approx([1.1])
    alone = table_of([cell for cell in cells if cell["control"] == "value"])
    assert alone["relative_time"].isna().all()


def test_policy_tokens_include_discarded_tokens(cells):
    by_control = {cell["control"]: frontier.policy_tokens(cell) for cell in cells if cell["adapter"] == "none"}
    assert by_control == pytest.approx({"none": 1.0, "value": 1.0, "slow": 1.0, "best_of_4": 4.1, "search": 5.1})


def test_cell_without_decoding_time_is_not_on_the_frontier(cells):
    record = read_json(cells[1]["record"])
    del record["notes"]["decode_seconds"]
    write_json(cells[1]["record"], record)
    assert relative_times(cells)[cells[1]["record"]] is None
    rows = table_of(cells)
    line = rows[(rows["adapter"] == "none") & (rows["control"] == "value")].iloc[0]
    assert pd.isna(line["relative_time"]) and line["on_frontier"] is None
    assert line["reward"] == pytest.approx(1.9 + 1.0)  # the reward is known


def test_frontier_contains_undominated_controls_only(cells):
    table = table_of(cells)
    for adapter in ("none", "repbend"):
        rows = table[table["adapter"] == adapter]
        assert set(rows[rows["on_frontier"].eq(True)]["control"]) == {"none", "value", "best_of_4"}
    shown = frontier.text(table)
    assert (shown["on the frontier"] == "yes").sum() == 6
    assert {"reward", "held-out reward", "win rate, %"} <= set(shown)


def test_held_out_reward_and_reward_are_not_swapped(cells):
    """A higher reward with a lower held-out reward indicates reward hacking, so the columns must not be swapped."""
    rows = table_of(cells).set_index(["adapter", "control"]).loc["none"]
    assert rows.loc["best_of_4", "reward"] - rows.loc["none", "reward"] == pytest.approx(1.5)
    assert rows.loc["best_of_4", "heldout_reward"] - rows.loc["none", "heldout_reward"] == pytest.approx(-1.5)
