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
    own = table[table["adapter"] == "none"].set_index("control")
    assert own["relative_time"].to_dict() == pytest.approx(
        {"none": 1.0, "value": 1.1, "slow": 2.2, "best_of_4": 4.0, "search": 3.0}
    )
    assert own["seconds_per_1000_tokens"]["value"] == pytest.approx(2.2)
    assert list(own.index) == ["none", "value", "slow", "search", "best_of_4"]  # the fastest first
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
    own = table_of(cells)
    line = own[(own["adapter"] == "none") & (own["control"] == "value")].iloc[0]
    assert pd.isna(line["relative_time"]) and line["on_frontier"] is None
    assert line["reward"] == pytest.approx(1.9 + 1.0)  # its reward is known all the same


def test_frontier_contains_undominated_controls_only(cells):
    table = table_of(cells)
    for adapter in ("none", "repbend"):
        own = table[table["adapter"] == adapter]
        assert set(own[own["on_frontier"].eq(True)]["control"]) == {"none", "value", "best_of_4"}
    shown = frontier.text(table)
    assert (shown["on the frontier"] == "yes").sum() == 6
    assert {"reward", "held-out reward", "win rate, %"} <= set(shown)


def test_held_out_reward_and_reward_are_not_swapped(cells):
    """More of the one and less of the other is what gaming a reward looks like: the columns must not be swapped."""
    own = table_of(cells).set_index(["adapter", "control"]).loc["none"]
    assert own.loc["best_of_4", "reward"] - own.loc["none", "reward"] == pytest.approx(1.5)
    assert own.loc["best_of_4", "heldout_reward"] - own.loc["none", "heldout_reward"] == pytest.approx(-1.5)
