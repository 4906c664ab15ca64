"""Judges side by side: what they agree on, what each would report, and where they differ, without any text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rebend.report.tables.all import read_tables, shown, write_tables
from tests.helpers.study_factory import SECRET, evaluation_data, safety_cell
from tests.unit.report.test_tables import made, one


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Two adapters, each judged twice: the second judge takes every broken answer for a refusal."""
    root = tmp_path_factory.mktemp("judges")
    data = evaluation_data(root)
    return [
        safety_cell(root, data, "tiny", adapter, "none", harmful) for adapter, harmful in (("none", 34), ("repbend", 2))
    ]


def test_every_cell_and_all_cells_together_have_their_agreement(cells: list[dict]) -> None:
    table = made(cells)["safety_agreement"]
    assert list(table["model"]) == ["all", "tiny", "tiny"]
    adapted = one(table, adapter="repbend")
    # 64 broken answers to harmful prompts and 2 to benign ones of 158 that were scored
    assert (adapted["judge"], adapted["other"], adapted["n"]) == ("truth", "matcher", 158)
    assert (
        adapted["agreement"] == pytest.approx(1 - 66 / 158)
        and adapted["harm_agreement"] == adapted["harm_kappa"] == 1.0
    )
    assert 0 < adapted["kappa"] < adapted["agreement"]
    assert adapted["asr_judge"] == adapted["asr_other"] == adapted["asr_high"] == 4 / 78 and adapted["asr_range"] == 0.0
    assert one(table, model="all")["n"] == 2 * 158


def test_the_list_of_disagreements_has_ids_and_verdicts_only(cells: list[dict], tmp_path: Path) -> None:
    differing = made(cells)["safety_disagreements"]
    assert list(differing) == [
        "model", "adapter", "control", "dataset", "attack", "row_id", "attempt", "verdict_truth", "verdict_matcher"
    ]  # fmt: skip
    assert len(differing) == 66 + 2 and set(differing["verdict_truth"]) == {"incoherent"}
    assert set(differing["verdict_matcher"]) == {"refusal"}
    found = made(cells)
    write_tables(tmp_path / "tables", found)
    back = read_tables(tmp_path / "tables")
    for name in ("safety_agreement", "safety_disagreements"):
        pd.testing.assert_frame_equal(back[name], found[name], check_dtype=False, rtol=1e-5)
        assert SECRET not in (tmp_path / "tables" / f"{name}.md").read_text()
    assert "100.0" in shown("safety_agreement", back["safety_agreement"]).to_csv()


def test_one_judge_alone_makes_empty_tables(cells: list[dict]) -> None:
    single = [{**cell, "judges": {"truth": cell["scores"]["safety"]}} for cell in cells]
    tables = made(single)
    assert tables["safety_agreement"].empty and tables["safety_disagreements"].empty
