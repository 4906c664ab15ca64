"""The table win_rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rebend.evaluation.judges.win_rate.judge import described
from rebend.evaluation.judges.win_rate.verdict import STATES
from rebend.io.files import write_parquet
from rebend.report.measurements import named_controls
from rebend.report.tables import win_rates as win_rate_tables
from rebend.report.tables.all import note, read_tables, shown, write_tables
from rebend.report.tables.table import Inputs
from tests.helpers.judge_server import Judge
from tests.helpers.judged_rows import block, by_length
from tests.helpers.study_factory import prompts_data
from tests.helpers.win_rate_verdicts import (
    ERROR,
    FLIP,
    LOSE,
    REFUSED,
    WIN,
    verdict_line,
    verdict_table,
)


def win_rate_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    return win_rate_tables.compute(Inputs(named_controls(cells), pd.DataFrame()))


@pytest.fixture
def cells(tmp_path: Path) -> list[dict[str, Any]]:
    judge = block(Judge(by_length), price_in=30.0, price_out=60.0)
    path = str(tmp_path / "chat_model.parquet")
    write_parquet(path, verdict_table(WIN, WIN, LOSE, FLIP, REFUSED, ERROR), described(judge))
    proxy = str(tmp_path / "proxy.parquet")
    alone = {"tokens_in": None, "tokens_out": None}
    lines = [verdict_line("win", [2.0], [1.0], 1, **alone), verdict_line("lose", [0.0], [1.0], 2, **alone)]
    write_parquet(proxy, verdict_table(*lines), {"judge": "reward_model", "model": ""})
    data = str(prompts_data(tmp_path))
    cell = {"model": "tiny", "adapter": "none", "method": "none", "dataset": "shp", "role": "quality"}
    cell |= {"attack": "", "data": data}
    return [
        {**cell, "control": "idle", "scores": {"win_rate": path}},
        {**cell, "control": "value", "method": "value", "dataset": "hh", "scores": {"win_rate": proxy}},
        {**cell, "control": "idle", "role": "safety", "scores": {}},
    ]


def test_table_has_a_row_per_judged_cell_with_judge_and_cost(cells: list[dict]) -> None:
    table = win_rate_table(cells)
    assert list(table) == win_rate_tables.COLUMNS and list(table["dataset"]) == ["hh", "shp"]
    proxy, chat_model = table.to_dict("records")
    assert (chat_model["judge"], proxy["judge"]) == ("judge-2026-01-01", "reward_model (proxy)")
    assert (chat_model["form"], proxy["form"]) == ("legacy", "")
    assert [chat_model[state] for state in STATES] == [2, 1, 1, 1, 0, 0, 1, 0]
    assert (chat_model["win_rate"], chat_model["win_rate_n"], chat_model["control"]) == (0.5, 4, "none")
    assert chat_model["cost"] == pytest.approx((600 * 30 + 60 * 60) / 1e6)
    assert pd.isna(proxy["cost"]) and pd.isna(proxy["flip_rate"])
    assert pd.isna(proxy["length_controlled"])  # both responses are longer


def test_text_shows_states_intervals_and_unknown_rates(cells: list[dict], tmp_path: Path) -> None:
    text = shown("win_rates", win_rate_table(cells)).to_dict("records")
    assert text[1]["win rate, %"].startswith("50.0 [") and text[1]["refused"] == "1" and text[1]["errors"] == "1"
    assert text[1]["ties (of orders)"] == "1 (1)" and text[1]["cost"] == "0.0216"
    assert text[0]["length-controlled, %"] == "unknown" and text[0]["flips, %"] == ""
    assert "A tie is no win" in note("win_rates", win_rate_table(cells))


def test_table_without_judge_is_empty(tmp_path: Path) -> None:
    assert win_rate_table([]).empty and list(win_rate_table([])) == win_rate_tables.COLUMNS


def test_table_survives_a_round_trip(cells: list[dict], tmp_path: Path) -> None:
    from rebend.report.tables.all import TABLES

    table = win_rate_table(cells)
    empty = {table.name: pd.DataFrame({"x": []}) for table in TABLES}
    write_tables(tmp_path / "tables", {**empty, "win_rates": table})
    back = read_tables(tmp_path / "tables")["win_rates"]
    pd.testing.assert_frame_equal(back, table, check_dtype=False, rtol=1e-5)
