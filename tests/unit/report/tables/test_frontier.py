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


def with_errors(cells, **errors):
    """Give each control of `COSTS` the error of its time over 10 batches; 0 by default."""
    for cell in cells:
        record = read_json(cell["record"])
        record["notes"] |= {"decode_batches": 10, "decode_seconds_error": errors.get(cell["control"], 0.0)}
        write_json(cell["record"], record)
    return table_of([cell for cell in cells if cell["adapter"] == "none"]).set_index("control")


def test_times_that_overlap_leave_both_controls_on_the_frontier(cells):
    exact = with_errors(cells)
    assert exact["on_frontier"].to_dict() == {
        "none": True, "value": True, "slow": False, "search": False, "best_of_4": True
    }  # fmt: skip
    # search takes 6 s ± 2.262 * 1.8, so it may be as fast as value; its reward is not clearly lower (0.9 against 1.0)
    vague = with_errors(cells, search=1.8)
    assert vague.loc["search", "seconds_per_1000_tokens_low"] == pytest.approx(6 - 2.262157 * 1.8)
    assert vague.loc["search", "seconds_per_1000_tokens_high"] == pytest.approx(6 + 2.262157 * 1.8)
    assert vague["on_frontier"]["search"] and not vague["on_frontier"]["slow"]
    shown = frontier.text(vague.reset_index()).set_index("control")
    assert shown.loc["search", "s per 1000 tokens"] == "6.000 [1.928, 10.072]"


def test_clearly_less_reward_in_no_less_time_is_not_on_the_frontier(cells):
    vague = with_errors(cells, none=3.0, value=3.0, slow=3.0, search=3.0, best_of_4=3.0)
    # value has 1.0 ± 0.4 more reward than none, but in more time; all others are as fast as far as is known
    assert vague["on_frontier"].to_dict() == {
        "none": True, "value": True, "slow": True, "search": True, "best_of_4": True
    }  # fmt: skip
    for cell in cells:
        if cell["control"] == "value":
            record = read_json(cell["record"])
            record["notes"]["decode_seconds"] = 1.9  # before: 2.2, and 2.0 without control
            write_json(cell["record"], record)
    faster = with_errors(cells, none=3.0, value=3.0)
    assert faster["on_frontier"]["value"] and not faster["on_frontier"]["none"]


def test_time_over_trainings_has_their_spread(cells):
    three = [{**cell, "seed": seed} for cell in cells if cell["adapter"] == "none" for seed in ("0", "1")]
    for cell in three:
        record = read_json(cell["record"])
        path = f"{cell['record']}.{cell['seed']}.json"
        record["notes"]["decode_seconds"] = 2.0 + int(cell["seed"])
        write_json(path, record)
        cell["record"] = path
    row = table_of(three).set_index("control").loc["value"]
    assert row["seconds_per_1000_tokens"] == pytest.approx(2.5) and row["relative_time"] == pytest.approx(1.0)
    assert row["seconds_per_1000_tokens_high"] == pytest.approx(2.5 + 12.7062 * 0.5, abs=1e-4)
    assert row["seconds_per_1000_tokens_low"] == 0.0


def test_held_out_reward_and_reward_are_not_swapped(cells):
    """A higher reward with a lower held-out reward indicates reward hacking, so the columns must not be swapped."""
    rows = table_of(cells).set_index(["adapter", "control"]).loc["none"]
    assert rows.loc["best_of_4", "reward"] - rows.loc["none", "reward"] == pytest.approx(1.5)
    assert rows.loc["best_of_4", "heldout_reward"] - rows.loc["none", "heldout_reward"] == pytest.approx(-1.5)
