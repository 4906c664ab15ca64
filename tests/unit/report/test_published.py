"""The papers' numbers: found by the printed names of a cell, unknown where not printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rebend.report.published import RecontrolPaper, RepbendPaper
from rebend.report.tables.all import write_tables
from tests.helpers.study_factory import PUBLISHED, evaluation_data, prompts_cell, prompts_data, safety_cell
from tests.unit.report.test_tables import made, one

LLAMA = "Llama-3-8B-Instruct"


def names(**published: str | list[str]) -> dict[str, Any]:
    """Return a cell's printed names by part."""
    return {part: [name] if isinstance(name, str) else name for part, name in published.items()}


def cell(**changes: Any) -> dict[str, Any]:
    """Return a cell without adapter, control and attack."""
    nothing = {"adapter": "none", "control": "none", "method": "none", "attack_method": "direct", "published": {}}
    return {**nothing, **changes}


def test_printed_numbers_of_recontrol_stand_beside_ours(tmp_path: Path) -> None:
    data = prompts_data(tmp_path, name="test")
    methods = {"none": ["Base"], "value": ["RE-Control"], "random": []}
    cells = [
        prompts_cell(
            tmp_path, data, "my_model", "none", control, 0.0,
            published=names(dataset="HH-RLHF", model="Vicuna-7B", control=printed),
        )
        for control, printed in methods.items()
    ]  # fmt: skip
    table = made(cells, paper="recontrol")["recontrol"]
    value = one(table, control="value")
    assert (value["printed_diversity"], value["printed_reward"], value["printed_win_rate"]) == (0.824, 6.214, 0.756)
    assert value["printed_hours"] == 0.85
    assert pd.isna(one(table, control="random")["printed_reward"])


def test_an_empty_printed_cell_is_unknown() -> None:
    paper = RecontrolPaper(PUBLISHED)
    row = paper.row(cell(published=names(model="Falcon-7B", dataset="HH-RLHF", control="Base")))
    assert row["diversity"] is None and row["reward"] == 3.439 and row["hours"] is None
    assert set(paper.row(cell(published=names(model="GPT-2", dataset="HH-RLHF", control="Base"))).values()) == {None}
    assert set(paper.row(cell(published=names(model="Falcon-7B", dataset="HH-RLHF"))).values()) == {None}


def test_printed_numbers_of_repbend_stand_beside_ours(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "my_benchmark")
    cells = [
        safety_cell(
            tmp_path, data, "my_model", adapter, "none", 3, attack,
            published=names(model=LLAMA, dataset="HarmBench", adapter=printed, attack="Prefilling"),
        )
        for adapter, printed in (("none", []), ("mine", "RepBend"))
        for attack in ("direct", "prefilling")
    ]  # fmt: skip
    xstest = evaluation_data(tmp_path, name="my_benign")
    cells.append(
        safety_cell(
            tmp_path, xstest, "my_model", "none", "none", 3, published=names(model=LLAMA, dataset="xstest")
        )
    )  # fmt: skip
    found = made(cells, paper="repbend")
    table = found["repbend"]
    whole = {"prompts": "harmful", "group": "all"}
    harm = table[table["dataset"] == "my_benchmark"]
    assert one(harm, adapter="none", attack="direct", **whole)["printed_asr"] == pytest.approx(0.2219)
    assert one(harm, adapter="mine", attack="direct", **whole)["printed_asr"] == pytest.approx(0.0031)
    assert one(harm, adapter="none", attack="prefilling", **whole)["printed_asr"] == pytest.approx(0.85)
    assert harm[harm["group"] != "all"]["printed_asr"].isna().all()
    over = one(table, dataset="my_benign", prompts="benign", group="all", attack="direct")
    assert over["printed_answered"] == pytest.approx(0.8511)
    write_tables(tmp_path / "tables", found)
    assert "own averages disagree with its cells" in (tmp_path / "tables" / "repbend.md").read_text()


def test_names_of_blocks_say_nothing_about_printed_numbers() -> None:
    paper = RepbendPaper(PUBLISHED)
    assert paper.model(cell(model="llama3_8b_instruct")) is None
    assert paper.benchmark(cell(dataset="harmbench")) is None
    assert paper.method(cell(adapter="without_dpo")) is None
    assert paper.method(cell()) == "Original"


def test_the_method_of_a_cell_is_its_adapter_or_its_instruction_or_that_of_a_model_that_others_made_safe() -> None:
    paper = RepbendPaper(PUBLISHED)
    assert paper.method(cell(adapter="mine", published=names(adapter="CB"))) == "CB"
    prompted = cell(control="mine", method="prompting", published=names(control="Safety Prompting"))
    assert paper.method(prompted) == "Safety Prompting"
    released = names(model=[LLAMA, "CB (released)"])
    assert paper.method(cell(published=released)) == "CB (released)" and paper.model(cell(published=released)) == LLAMA
    assert paper.method(cell(control="value", method="value")) is None  # the paper prints no control
    assert paper.method(cell(adapter="mine", method="value", published=names(adapter="CB"))) is None
    assert paper.method(cell(adapter="mine", published=released | names(adapter="DPO"))) is None


def test_attacks_are_columns_of_table_1_on_harmbench_only() -> None:
    paper = RepbendPaper(PUBLISHED)
    attack = {"attack_method": "gcg"}
    assert paper.benchmark(cell(**attack, published=names(dataset="HarmBench", attack="GCG"))) == "GCG"
    assert paper.benchmark(cell(**attack, published=names(dataset="DAN", attack="GCG"))) is None
    assert paper.benchmark(cell(**attack, published=names(dataset="HarmBench"))) is None
    assert paper.benchmark(cell(published=names(dataset="DAN"))) == "DAN"


def test_methods_of_the_wider_tables_are_found_too() -> None:
    paper, mistral = RepbendPaper(PUBLISHED), "Mistral-7B-Instruct-v0.2"
    assert paper.asr_of(mistral, "DPO", "HarmBench") == 0.2563
    assert paper.asr_of("Gemma2-2B-Instruct", "RepBend", "WildGuardTest (ID)") == 0.0134
    assert paper.asr_of(mistral, "NPO", "HarmBench") == 0.0006  # Table 6 also has one without a safe set
    assert paper.asr_of(mistral, "DPO", "Total average") is None
