"""A reward model at chance gives a warning in tables, their notes and the findings; another one gives none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from rebend.io.files import write_json
from rebend.report.html.findings import findings
from rebend.report.reward_warning import COLUMN, TABLES
from rebend.report.tables.all import all_tables, note, read_tables, write_tables


def record(folder: Path, name: str, hits: float, low: float, high: float) -> dict[str, str]:
    notes = {
        "held_out_pairs": 200,
        "held_out_accuracy": hits,
        "held_out_accuracy_interval": [low, high],
        "held_out_at_chance": low <= 0.5,
    }
    write_json(folder / f"{name}.run.json", {"notes": notes})
    return {"reward": name, "record": str(folder / f"{name}.run.json")}


def test_reward_model_at_chance_warns_in_notes_and_findings(settings: dict[str, Any], tmp_path: Path) -> None:
    rewards = [record(tmp_path, "weak", 0.518, 0.449, 0.586), record(tmp_path, "good", 0.65, 0.58, 0.71)]
    write_tables(tmp_path / "tables", all_tables({**settings, "rewards": rewards}))
    tables = read_tables(tmp_path / "tables")
    expected = "reward model weak 51.8 [44.9, 58.6] % of 200 pairs. What"
    for name in TABLES:
        assert len(tables[name]) and expected in note(name, tables[name])
        assert expected in (tmp_path / f"tables/{name}.md").read_text()
    assert sum(expected in sentence for sentence in findings(tables)) == 1
    assert "good" not in note("recontrol", tables["recontrol"])
    assert COLUMN not in tables["repbend"]


def test_reward_model_above_chance_changes_no_table(
    tables: dict[str, pd.DataFrame], settings: dict[str, Any], tmp_path: Path
) -> None:
    write_json(tmp_path / "hub.run.json", {"notes": {}})  # a record without pairs
    rewards = [record(tmp_path, "good", 0.65, 0.58, 0.71), {"reward": "hub", "record": str(tmp_path / "hub.run.json")}]
    again = all_tables({**settings, "rewards": rewards})
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)
