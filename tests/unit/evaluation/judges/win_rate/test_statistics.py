"""The figures of a file of verdicts, and the table of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rebend.evaluation.judges.win_rate.judge import described
from rebend.evaluation.judges.win_rate.statistics import win_rates
from rebend.evaluation.judges.win_rate.verdict import DETAILED_VERDICTS, STATES
from rebend.io.files import write_parquet
from rebend.report.measurements import named_controls
from rebend.report.tables import win_rates as win_rate_tables
from rebend.report.tables.all import note, read_tables, shown, write_tables
from rebend.report.tables.table import Inputs
from tests.helpers.judge_server import Judge
from tests.helpers.judged_rows import block, by_length


def line(verdict: str | None, ours: list[float], theirs: list[float], longer: int, **more: Any) -> dict[str, Any]:
    marks = {"response_marks": ours, "reference_marks": theirs} if ours else {}
    lengths = {"response_length": 20 + longer, "reference_length": 20}
    return {
        "row_id": "x",
        "verdict": verdict,
        "state": verdict,
        "tokens_in": 100,
        "tokens_out": 10,
        **marks,
        **lengths,
        **more,
    }


WIN = line("win", [8, 8], [5, 5], 4)
LOSE = line("lose", [5, 5], [8, 8], -4)
FLIP = line("tie", [8, 5], [5, 8], 0)
EVEN = line("tie", [7, 7], [7, 7], 2)
SHORT_WIN = line("win", [8, 7], [5, 5], -1)
REFUSED = line(None, [], [], 9, state="refused", not_scored="refused: no")
ERROR = line(None, [], [], 9, state="error", not_scored="error: 500")
MISSING = {"row_id": "x", "state": "missing", "not_scored": "no response", "reference_length": 3}


def table(*lines: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{**one, "row_id": f"r{i}"} for i, one in enumerate(lines)], schema=DETAILED_VERDICTS)


def test_a_tie_is_no_win_and_what_was_not_judged_is_in_no_part() -> None:
    found = win_rates(table(WIN, WIN, LOSE, FLIP, EVEN, REFUSED, ERROR, MISSING))
    assert found.states == dict(zip(STATES, [2, 2, 1, 1, 0, 1, 1], strict=True))
    assert found.win_rate.estimate == found.win_rate_bootstrap.estimate == 0.4 and found.win_rate.n == 5
    assert found.half_tie_rate.estimate == 0.6 and found.win_rate.not_scored == 3
    assert (found.tokens_in, found.tokens_out) == (700, 70)


def test_ties_are_explained_by_their_orders() -> None:
    found = win_rates(table(WIN, FLIP, FLIP, EVEN, REFUSED))
    assert found.flip_rate.estimate == 0.5 and found.flip_rate.n == 4
    assert (found.states["tie"], found.ties_of_orders) == (3, 2)


def test_a_row_that_leans_one_way_and_is_even_the_other_is_a_flip_and_a_tie() -> None:
    found = win_rates(table(line("tie", [8, 6], [5, 6], 0)))
    assert found.flip_rate.estimate == 1.0 and found.ties_of_orders == 1


def test_a_proxy_has_no_orders_that_could_flip() -> None:
    found = win_rates(table(line("win", [2.0], [1.0], 1)))
    assert found.flip_rate.n == 0 and found.flip_rate.estimate is None


def test_length_is_told_by_decided_rows_of_unequal_length() -> None:
    found = win_rates(table(WIN, WIN, LOSE, SHORT_WIN, FLIP, EVEN, REFUSED))
    assert (found.longer_wins.estimate, found.longer_wins.n) == (0.75, 4)
    assert found.response_longer.estimate == 0.5 and found.response_longer.n == 6
    assert found.length_controlled.n == 6 and found.length_slope is not None and found.length_slope > 0


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    lines = table(*[WIN, LOSE, EVEN] * 9)
    assert win_rates(lines, 1) == win_rates(lines, 1)
    first = win_rates(lines, 1).half_tie_rate
    assert first.ci_low is not None and first.ci_high is not None and first.ci_low < 0.5 < first.ci_high


def test_nothing_judged_is_unknown_and_not_zero() -> None:
    found = win_rates(table(REFUSED, MISSING))
    for name in ("win_rate", "win_rate_bootstrap", "half_tie_rate", "flip_rate", "length_controlled", "longer_wins"):
        assert getattr(found, name).estimate is None, name


def win_rate_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    return win_rate_tables.compute(Inputs(named_controls(cells), pd.DataFrame()))


@pytest.fixture
def cells(tmp_path: Path) -> list[dict[str, Any]]:
    judge = block(Judge(by_length), price_in=30.0, price_out=60.0)
    path = str(tmp_path / "asked.parquet")
    write_parquet(path, table(WIN, WIN, LOSE, FLIP, REFUSED, ERROR), described(judge))
    proxy = str(tmp_path / "proxy.parquet")
    alone = {"tokens_in": None, "tokens_out": None}
    lines = [line("win", [2.0], [1.0], 1, **alone), line("lose", [0.0], [1.0], 2, **alone)]
    write_parquet(proxy, table(*lines), {"judge": "reward_model", "model": ""})
    cell = {"model": "tiny", "adapter": "none", "method": "none", "dataset": "shp", "role": "quality"}
    return [
        {**cell, "control": "idle", "scores": {"win_rate": path}},
        {**cell, "control": "value", "method": "value", "dataset": "hh", "scores": {"win_rate": proxy}},
        {**cell, "control": "idle", "role": "safety", "scores": {}},
    ]


def test_the_table_has_a_line_per_judged_cell_with_cost_and_judge(cells: list[dict]) -> None:
    found = win_rate_table(cells)
    assert list(found) == win_rate_tables.COLUMNS and list(found["dataset"]) == ["hh", "shp"]
    proxy, asked = found.to_dict("records")
    assert (asked["judge"], proxy["judge"]) == ("judge-2026-01-01", "reward_model (proxy)")
    assert (asked["form"], proxy["form"]) == ("legacy", "")
    assert [asked[state] for state in STATES] == [2, 1, 1, 1, 0, 1, 0]
    assert (asked["win_rate"], asked["win_rate_n"], asked["control"]) == (0.5, 4, "none")
    assert asked["cost"] == pytest.approx((600 * 30 + 60 * 60) / 1e6)
    assert pd.isna(proxy["cost"]) and pd.isna(proxy["flip_rate"])
    assert pd.isna(proxy["length_controlled"])  # both responses are longer


def test_the_table_is_printed_with_states_intervals_and_what_is_not_known(cells: list[dict], tmp_path: Path) -> None:
    text = shown("win_rates", win_rate_table(cells)).to_dict("records")
    assert text[1]["win rate, %"].startswith("50.0 [") and text[1]["refused"] == "1" and text[1]["errors"] == "1"
    assert text[1]["ties (of orders)"] == "1 (1)" and text[1]["cost"] == "0.0216"
    assert text[0]["length-controlled, %"] == "not known" and text[0]["flips, %"] == ""
    assert "A tie is no win" in note("win_rates", win_rate_table(cells))


def test_no_judge_makes_an_empty_table(tmp_path: Path) -> None:
    assert win_rate_table([]).empty and list(win_rate_table([])) == win_rate_tables.COLUMNS


def test_the_table_survives_its_files(cells: list[dict], tmp_path: Path) -> None:
    from rebend.report.tables.all import TABLES

    found = win_rate_table(cells)
    empty = {table.name: pd.DataFrame({"x": []}) for table in TABLES}
    write_tables(tmp_path / "tables", {**empty, "win_rates": found})
    back = read_tables(tmp_path / "tables")["win_rates"]
    pd.testing.assert_frame_equal(back, found, check_dtype=False, rtol=1e-5)
