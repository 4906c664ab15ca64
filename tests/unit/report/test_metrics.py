"""The list of metrics."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from rebend.config.load import load_config
from rebend.pipeline.graph.plan import Plan
from rebend.report.metrics import METRICS, OUTCOMES, Measurement, Metric, attack_of, heading, in_percent
from rebend.report.tables.all import shown
from tests.helpers.study_factory import prompts_cell, prompts_data
from tests.helpers.study_tables import make_tables, one_row

ROOT = Path(__file__).parents[3]


def high(rows: pd.DataFrame) -> pd.Series:
    """Return 1 if the score is above 2, else 0; NaN without a score."""
    return (rows["score"] > 2.0).astype(float).where(rows["score"].notna())


def test_new_metric_needs_one_entry_and_one_function(tmp_path: Path) -> None:
    entry = Metric("high_reward", Measurement("high_reward", "reward", high), "high rewards", is_rate=True)
    METRICS.append(entry)
    try:
        data = prompts_data(tmp_path)
        cells = [prompts_cell(tmp_path, data, "tiny", "none", c, s) for c, s in (("none", 0.0), ("value", 1.0))]
        tables = make_tables(cells)
        line = one_row(tables["matrix"], control="value", metric="high_reward")
        assert (line["estimate"], line["n"], line["not_scored"]) == (28 / 39, 39, 1)  # i / 10 + 1 > 2
        assert one_row(tables["recontrol"], control="none")["high_reward"] == 18 / 39
        for name in ("matrix", "recontrol"):
            assert "high rewards, %" in shown(name, tables[name])
    finally:
        METRICS.remove(entry)


def test_metrics_have_unique_names_and_one_source_per_measurement() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    measured = {metric.measured for metric in (*METRICS, *OUTCOMES)}
    assert len({measurement.name for measurement in measured}) == len(measured)


def test_sources_are_exactly_the_stages_of_scores(tmp_path: Path) -> None:
    """In a study that asks for every score."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    study = yaml.safe_load((ROOT / "config/studies/tiny.yaml").read_text())
    asked = {"perplexity": True, "repetition": True, "held_out_chats": ["tiny_retain"]}
    grids = [{**grid, **asked} for grid in study["grids"]]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"title": "All", "grids": grids}))
    plan = Plan(load_config({**raw, "study": "all"}, tmp_path))
    stages = {stage for cell in plan.cells for stage in cell.scores()}
    stages |= {stage for entry in plan.summary("p")["chats"] for stage in entry["scores"]}
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
        ("asr_my_ratio", "ASR, my_ratio, %", True),  # an attack of this name
        ("perplexity", "perplexity", False),
        ("perplexity_ratio", "perplexity ratio, %", True),
        ("harmful_perplexity_prefilling", "harmful perplexity, prefilling", False),
        ("harmful_perplexity_ratio", "harmful perplexity ratio, %", True),
        ("chat_perplexity", "perplexity on held-out chats", False),
    ],
)
def test_heading_contains_the_unit(name: str, text: str, percent: bool) -> None:
    assert (heading(name), in_percent(name)) == (text, percent)


def test_attack_of_returns_the_attack_in_the_name() -> None:
    assert [attack_of(name) for name in ("asr", "asr_gcg", "asr_reduction", "reward")] == ["direct", "gcg", None, None]
