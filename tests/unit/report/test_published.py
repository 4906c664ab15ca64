"""The papers' numbers: found under our names, unknown where not printed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rebend.report.published import Published, benchmark_of, closest
from rebend.report.tables.all import write_tables
from tests.helpers.study_factory import PUBLISHED, evaluation_data, prompts_cell, prompts_data, safety_cell
from tests.unit.report.test_tables import made, one


def test_printed_numbers_of_recontrol_stand_beside_ours(tmp_path: Path) -> None:
    data = prompts_data(tmp_path, name="hh_rlhf_test")
    cells = [prompts_cell(tmp_path, data, "vicuna_7b", "none", control, 0.0) for control in ("none", "value", "random")]
    table = made(cells, paper="recontrol")["recontrol"]
    value = one(table, control="value")
    assert (value["printed_diversity"], value["printed_reward"], value["printed_win_rate"]) == (0.824, 6.214, 0.756)
    assert value["printed_hours"] == 0.85
    assert pd.isna(one(table, control="random")["printed_reward"])


def test_an_empty_printed_cell_is_unknown() -> None:
    printed = Published(PUBLISHED)
    row = printed.recontrol_row("falcon-7b", "HH-RLHF", "none")
    assert row["diversity"] is None and row["reward"] == 3.439 and row["hours"] is None
    assert set(printed.recontrol_row("gpt2", "HH-RLHF", "none").values()) == {None}


def test_printed_numbers_of_repbend_stand_beside_ours(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path)
    cells = [
        safety_cell(tmp_path, data, "llama3_8b_instruct", adapter, "none", 3, attack)
        for adapter in ("none", "repbend_llama3")
        for attack in ("direct", "prefilling_harmbench")
    ]
    xstest = evaluation_data(tmp_path, name="xstest_v2")
    cells.append(safety_cell(tmp_path, xstest, "llama3_8b_instruct", "none", "none", 3))
    found = made(cells, paper="repbend")
    # the data set is called harmbench; the paper's name of the model has a hyphen more
    table = found["repbend"]
    whole = {"prompts": "harmful", "group": "all"}
    harm = table[table["dataset"] == "harmbench"]
    assert one(harm, adapter="none", attack="direct", **whole)["printed_asr"] == pytest.approx(0.2219)
    assert one(harm, adapter="repbend_llama3", attack="direct", **whole)["printed_asr"] == pytest.approx(0.0031)
    prefilled = Published(PUBLISHED).asr.query(
        "benchmark == 'Prefilling' and method == 'Original' and model.str.contains('Llama')"
    )
    assert one(harm, adapter="none", attack="prefilling_harmbench", **whole)["printed_asr"] == pytest.approx(
        prefilled["asr_percent"].iloc[0] / 100
    )
    assert harm[harm["group"] != "all"]["printed_asr"].isna().all()
    over = one(table, dataset="xstest_v2", prompts="benign", group="all", attack="direct")
    assert over["printed_answered"] == pytest.approx(0.8511)
    write_tables(tmp_path / "tables", found)
    assert "own averages disagree with its cells" in (tmp_path / "tables" / "repbend.md").read_text()


def test_names_are_matched_by_their_longest_beginning() -> None:
    printed = pd.Series(["Llama3-8B", "Vicuna-7B", "WildGuardTest (ID)", "HH-RLHF"])
    assert closest("llama3_8b_instruct", printed) == "Llama3-8B"
    assert closest("wildguardtest", printed) == "WildGuardTest (ID)"
    assert closest("hh_rlhf_test", printed) == "HH-RLHF"
    assert closest("tiny", printed) is None
    assert closest("paper_harmbench", ["HarmBench", "DAN"]) == "HarmBench"  # the blocks of the paper studies
    assert closest("mistral_7b", ["Mistral-7B-Instruct-v0.2", "Llama-3-8B-Instruct"]) == "Mistral-7B-Instruct-v0.2"
    assert closest("llama", ["Llama-3-8B", "Llama-3-70B"]) is None  # which one?
    assert closest("paper_hh_test", ["HH-RLHF", "SHP"], by_word=True) == "HH-RLHF"
    assert closest("paper_hh_test", ["HH-RLHF", "SHP"]) is None


def test_attacks_are_columns_of_table_1_on_harmbench_only() -> None:
    assert benchmark_of("paper_harmbench", "embedding_strong") == "Input Embed"
    assert benchmark_of("paper_harmbench", "gcg_harmbench") == "GCG"
    assert benchmark_of("paper_dan", "gcg") is None and benchmark_of("paper_dan", "direct") == "DAN"
