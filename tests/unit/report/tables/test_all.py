"""All tables: names, files, and empty or pooled data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest

from rebend.config.study import ClaimTable
from rebend.io.files import write_parquet
from rebend.io.scores import score_table
from rebend.report.tables.all import TABLES, all_tables, read_tables, write_tables
from rebend.report.tables.claims import check_claims
from tests.helpers.study_factory import (
    prompts_cell,
    prompts_data,
    without,
)
from tests.helpers.study_tables import CLAIM, make_tables, one_row


def test_write_tables_writes_csv_markdown_and_latex(
    tables: dict[str, pd.DataFrame], settings: dict[str, Any], tmp_path: Path
) -> None:
    written = {**tables, "claims": check_claims([CLAIM], tables)}
    write_tables(tmp_path / "tables", written)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"{table.name}.{end}" for table in TABLES for end in ("csv", "md", "tex")
    }
    matrix = pd.read_csv(tmp_path / "tables" / "matrix.csv", keep_default_na=False)
    rates = matrix[~matrix["metric"].isin(["reward", "heldout_reward", "coherence"])]["estimate"].astype(float)
    assert rates.between(0, 1).all()
    assert (matrix["adapter"] == "none").any()
    back = read_tables(tmp_path / "tables")
    for name in ("matrix", "recontrol", "repbend", "gains"):
        pd.testing.assert_frame_equal(back[name], written[name].reset_index(drop=True), check_dtype=False, rtol=1e-5)
    assert bool(back["claims"].iloc[0]["met"]) is True
    text = (tmp_path / "tables" / "matrix.md").read_text()
    assert "87.2 [78.0, 92.9] (n 78, 2 not scored)" in text and "ASR, %" in text
    tex = (tmp_path / "tables" / "repbend.tex").read_text()
    assert r"ASR, \%" in tex and r"\toprule" in tex


def test_equal_scores_give_equal_bytes(
    tables: dict[str, pd.DataFrame], settings: dict[str, Any], tmp_path: Path
) -> None:
    write_tables(tmp_path / "one", tables)
    write_tables(tmp_path / "two", all_tables(settings))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_metrics_without_score_files_have_no_rows(tmp_path: Path) -> None:
    cell = prompts_cell(tmp_path, prompts_data(tmp_path), "tiny", "none", "none", 0.0)
    tables = make_tables([without(cell, "coherence", "win_rate", "heldout_reward")])
    assert set(tables["matrix"]["metric"]) == {"reward", "diversity"}
    assert tables["repbend"].empty and tables["gains"].empty
    write_tables(tmp_path / "tables", tables)
    assert "Nothing was measured" in (tmp_path / "tables" / "repbend.md").read_text()


def test_data_sets_are_pooled_and_also_listed_separately(tmp_path: Path) -> None:
    first, second = prompts_data(tmp_path), prompts_data(tmp_path, name="more")
    cells = [
        prompts_cell(tmp_path, data, "tiny", "none", control, shift)
        for data, shift in ((first, 1.0), (second, 3.0))
        for control in ("none", "value")
    ]
    for cell in cells[1::2]:
        ids = [f"p{i}" for i in range(40)]
        write_parquet(cell["scores"]["reward"], score_table(ids, [2.0 if cell["dataset"] == "more" else 1.0] * 40))
    tables = make_tables(cells)
    assert one_row(tables["matrix"], control="value", metric="reward")["estimate"] == pytest.approx(1.5)
    assert one_row(tables["matrix"], control="value", metric="reward")["n"] == 80
    assert set(tables["gains"]["dataset"]) == {"all", "chats", "more"}
    assert len(tables["recontrol"]) == 4


def test_claims_can_name_every_table_of_numbers() -> None:
    without_numbers = {"win_rates", "safety_disagreements", "claims"}
    assert set(get_args(ClaimTable)) == {table.name for table in TABLES} - without_numbers


def test_tables_have_unique_names_and_notes() -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
    assert all(table.note.endswith(".") for table in TABLES)
