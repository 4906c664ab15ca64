"""The table recontrol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rebend.io.files import read_json, write_json
from rebend.report.html.findings import findings
from rebend.report.tables.all import shown
from tests.helpers.study_factory import (
    prompts_cell,
    prompts_data,
)
from tests.helpers.study_tables import make_tables, one_row


def test_recontrol_has_one_row_per_cell(tables: dict[str, pd.DataFrame]) -> None:
    line = one_row(tables["recontrol"], adapter="repbend", control="value")
    assert line["reward"] == pytest.approx(2.9) and line["reward_not_scored"] == 1 and line["win_rate_not_scored"] == 1
    assert line["seconds_per_1000_tokens"] == 2.0
    assert line["judge"] == "world_rubric (proxy)"
    assert not [column for column in tables["recontrol"] if column.startswith("printed")]


def names(**published: str | list[str]) -> dict[str, Any]:
    """Return a cell's printed names by part."""
    return {part: [name] if isinstance(name, str) else name for part, name in published.items()}


def test_printed_numbers_are_added_to_the_row_of_their_cell(tmp_path: Path) -> None:
    data = prompts_data(tmp_path, name="test")
    methods = {"none": ["Base"], "value": ["RE-Control"], "random": []}
    cells = [
        prompts_cell(
            tmp_path, data, "my_model", "none", control, 0.0,
            published=names(dataset="HH-RLHF", model="Vicuna-7B", control=printed),
        )
        for control, printed in methods.items()
    ]  # fmt: skip
    table = make_tables(cells, paper="recontrol")["recontrol"]
    value = one_row(table, control="value")
    assert (value["printed_diversity"], value["printed_reward"], value["printed_win_rate"]) == (0.824, 6.214, 0.756)
    assert value["printed_hours"] == 0.85
    assert pd.isna(one_row(table, control="random")["printed_reward"])


def test_rate_of_clipped_tokens_is_in_table_and_findings(tmp_path: Path) -> None:
    data = prompts_data(tmp_path)
    cells = [prompts_cell(tmp_path, data, "tiny", "none", control, 0.1) for control in ("none", "value")]
    record = read_json(cells[1]["record"])
    write_json(cells[1]["record"], {**record, "notes": {**record["notes"], "tokens_clipped": 30}})
    tables = make_tables(cells)
    assert one_row(tables["recontrol"], control="value")["held_rate"] == 0.02
    assert one_row(tables["recontrol"], control="none")["held_rate"] == 0
    assert shown("recontrol", tables["recontrol"])["clipped, %"].tolist() == ["", "2.0"]
    text = " ".join(findings(tables))
    assert "control value was clipped at 2.0 % of the tokens" in text and "control none was clipped" not in text
    write_json(cells[1]["record"], {**record, "notes": {**record["notes"], "tokens_clipped": 0}})
    tables = make_tables(cells)
    assert "clipped, %" not in shown("recontrol", tables["recontrol"])
    assert "was clipped" not in " ".join(findings(tables))
