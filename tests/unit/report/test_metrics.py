"""The list of metrics: every table reads it, and a new metric is one entry and one function."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import yaml

from rebend.config.load import load_config
from rebend.config.study import ClaimTable
from rebend.pipeline.graph.plan import Plan
from rebend.report.metrics import METRICS, OUTCOMES, Measurement, Metric, attack_of, heading, in_percent
from rebend.report.tables.all import TABLES, shown
from tests.helpers.study_factory import prompts_cell, prompts_data
from tests.unit.report.test_tables import made, one

ROOT = Path(__file__).parents[3]


def high(rows: pd.DataFrame) -> pd.Series:
    """Return 1 where the score is above 2, else 0; NaN where there is none."""
    return (rows["score"] > 2.0).astype(float).where(rows["score"].notna())


def test_a_new_metric_is_one_entry_and_one_function(tmp_path: Path) -> None:
    entry = Metric("high_reward", Measurement("high_reward", "reward", high), "high rewards", is_rate=True)
    METRICS.append(entry)
    try:
        data = prompts_data(tmp_path)
        cells = [prompts_cell(tmp_path, data, "tiny", "none", c, s) for c, s in (("none", 0.0), ("value", 1.0))]
        tables = made(cells)
        line = one(tables["matrix"], control="value", metric="high_reward")
        assert (line["estimate"], line["n"], line["not_scored"]) == (28 / 39, 39, 1)  # i / 10 + 1 > 2
        assert one(tables["recontrol"], control="none")["high_reward"] == 18 / 39
        for name in ("matrix", "recontrol"):
            assert "high rewards, %" in shown(name, tables[name])
    finally:
        METRICS.remove(entry)


def test_metrics_have_different_names_and_one_source_per_measurement() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    measured = {metric.measured for metric in (*METRICS, *OUTCOMES)}
    assert len({measurement.name for measurement in measured}) == len(measured)


def test_every_source_is_a_stage_of_scores_and_every_stage_has_a_metric() -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    plan = Plan(load_config({**raw, "study": "tiny"}, ROOT / "config/studies"))
    stages = {stage for cell in plan.cells for stage in cell.scores()}
    assert {metric.measured.source for metric in METRICS} == stages


@pytest.mark.parametrize(
    ("name", "text", "percent"),
    [
        ("asr", "ASR, %", True),
        ("asr_prefilling", "ASR, prefilling, %", True),
        ("asr_reduction", "asr reduction, %", True),
        ("heldout_reward", "held-out reward", False),
        ("diversity_ratio", "diversity ratio, %", True),
        ("reward_gain", "reward gain", False),
        ("benign_answer_rate", "benign answered, %", True),
    ],
)
def test_headings_have_their_unit(name: str, text: str, percent: bool) -> None:
    assert (heading(name), in_percent(name)) == (text, percent)


def test_the_attack_of_a_success_rate_is_in_its_name() -> None:
    assert [attack_of(name) for name in ("asr", "asr_gcg", "asr_reduction", "reward")] == ["direct", "gcg", None, None]


def test_a_claim_may_name_every_table_of_numbers() -> None:
    without_numbers = {"win_rates", "safety_disagreements", "claims"}
    assert set(get_args(ClaimTable)) == {table.name for table in TABLES} - without_numbers


def test_every_table_has_its_own_name_and_a_note() -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
    assert all(table.note.endswith(".") for table in TABLES)
