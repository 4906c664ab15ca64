"""Blocks with printed numbers beside them, whose settings are not the paper's, are marked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.deviations import adapter_deviations, control_deviations
from rebend.pipeline.graph.plan import Plan
from rebend.report.tables.all import note
from rebend.report.tables.claims import pick

ROOT = Path(__file__).parents[3]
RAW: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def plan(study: str, *, section: str = "adapters", block: str = "", **keys: Any) -> Plan:
    raw = copy.deepcopy(RAW)
    raw[section].get(block, {}).update(keys)
    return load_plan({**raw, "study": study}, ROOT / "config/studies")


def test_published_settings_have_no_mark() -> None:
    config = plan("paper_repbend").config
    for base, adapter in (
        ("llama3_8b", "repbend_llama3"),
        ("mistral_7b", "repbend_mistral"),
        ("mistral_7b", "paper_npo_mistral"),
    ):
        assert adapter_deviations(config, base, adapter) == {}
    assert adapter_deviations(config, "gemma2_2b", "repbend_gemma2") == {"layers_window_size": "6 instead of 11"}
    assert adapter_deviations(config, "mistral_7b", "repbend_llama3") == {"max_step": "450 instead of 300"}
    assert adapter_deviations(config, "tiny", "repbend") == {}  # no printed name
    config = plan("paper_recontrol").config
    for base, control in (
        ("vicuna_7b", "value_hh_vicuna"),
        ("falcon_7b", "value_hh_falcon"),
        ("vicuna_7b", "value_shp_vicuna"),
    ):
        assert control_deviations(config, base, control) == {}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"push_limit": 25.0}, "push_limit 25.0 instead of None"),
        ({"lora_dropout": 0.0}, "lora_dropout 0.0 instead of 0.05"),
        ({"epsilon": 0.6}, "epsilon 0.6 instead of 0.3"),
    ],
)
def test_an_adapter_with_other_settings_is_marked_wherever_its_label_is(keys: dict[str, Any], words: str) -> None:
    summary = plan("paper_repbend", block="repbend_llama3", **keys).summary("x")
    marked = {cell["adapter"] for cell in summary["cells"] if cell["adapter"].startswith("repbend_llama3")}
    assert marked == {"repbend_llama3*", "repbend_llama3_released"}
    assert {"repbend_llama3*"} <= {entry["adapter"] for entry in summary["capabilities"]}
    assert any("repbend_llama3*: settings differ" in line and words in line for line in summary["deviations"])


def test_an_ascent_with_other_settings_is_marked() -> None:
    changed = plan("paper_recontrol", section="value_models", block="shp_two_layers", epochs=5)
    found = control_deviations(changed.config, "vicuna_7b", "value_shp_vicuna")
    assert found == {"value_model.epochs": "5 instead of 100"}
    labels = {cell["control"] for cell in changed.summary("x")["cells"]}
    assert "value_shp_vicuna*" in labels and "value_hh_vicuna" in labels
    assert "value_hh_vicuna*" not in labels


def test_tables_explain_the_mark_and_claims_find_the_row() -> None:
    table = pd.DataFrame({"adapter": ["none", "repbend*"], "control": "none", "estimate": [1.0, 0.0]})
    assert "*: settings other than the paper's" in note("matrix", table)
    assert "*:" not in note("matrix", table.assign(adapter="repbend"))
    assert pick(table, {"adapter": "repbend"}, "a claim")["estimate"] == 0.0


def test_studies_without_a_paper_have_no_marks() -> None:
    summary = plan("tiny").summary("x")
    assert summary["deviations"] == [] and not any(cell["adapter"].endswith("*") for cell in summary["cells"])
