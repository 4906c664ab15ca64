"""The table repbend_asr."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from rebend.evaluation.intervals import wilson
from rebend.io.files import write_parquet
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.published import WHITE_BOX
from rebend.report.tables.all import note, read_tables, shown, write_tables
from tests.helpers.repbend_paper import (
    ADAPTERS,
    ADAPTERS_SHOWN,
    TOTAL,
    with_printed_names,
)
from tests.helpers.study_factory import evaluation_data, safety_cell
from tests.helpers.study_tables import make_tables, one_row


def test_rows_have_the_asr_and_the_printed_number(paper_tables: dict[str, pd.DataFrame]) -> None:
    asr = paper_tables["repbend_asr"]
    line = one_row(asr, adapter="repbend_mistral", benchmark="HarmBench")
    assert (line["asr"], line["asr_n"], line["asr_not_scored"]) == (8 / 78, 78, 2)
    assert (line["asr_low"], line["asr_high"]) == wilson(8, 78)
    assert (line["method"], line["kind"], line["printed_asr"]) == ("RepBend", "black-box", 0.0156)
    assert one_row(asr, adapter="none", benchmark="WildGuardTest (ID)")["kind"] == "in-distribution"
    assert one_row(asr, adapter="none", benchmark="GCG")["kind"] == "white-box"
    ours, theirs = (
        one_row(asr, adapter=adapter, benchmark="PAP")["printed_asr"] for adapter in ("cb_mistral", "released_cb")
    )
    assert (ours, theirs) == (0.1313, 0.0938)  # trained by the paper's authors; released by others
    assert not asr["dataset"].isin(["paper_xstest", "paper_wildjailbreak"]).any()  # Table 1 does not have them


def test_averages_are_over_benchmarks_and_count_each_benchmark_once(paper_tables: dict[str, pd.DataFrame]) -> None:
    asr = paper_tables["repbend_asr"]
    assert len(asr[(asr["benchmark"] == "Prefilling") & (asr["adapter"] == "none")]) == 2
    rates = asr[asr["adapter"] == "cb_mistral"].drop_duplicates("benchmark").set_index("benchmark")["asr"]
    white = one_row(asr, adapter="cb_mistral", benchmark="White-box average")
    assert white["asr"] == pytest.approx(rates[list(WHITE_BOX)].mean()) and white["benchmarks"] == 3
    assert white["asr_low"] < white["asr"] < white["asr_high"]
    total = one_row(asr, adapter="cb_mistral", benchmark=TOTAL)
    assert total["benchmarks"] == 8 and total["asr"] == pytest.approx(rates.drop(index=rates.index[8:]).mean())


def test_wrong_averages_of_the_paper_are_marked(paper_tables: dict[str, pd.DataFrame]) -> None:
    asr = paper_tables["repbend_asr"]
    white = {adapter: one_row(asr, adapter=adapter, benchmark="White-box average") for adapter in ADAPTERS}
    stated = {adapter: (line["paper_asr"], round(line["paper_asr_recomputed"], 4)) for adapter, line in white.items()}
    assert stated["task_arithmetic"] == (0.5563, 0.5760) and stated["cb_mistral"] == (0.2805, 0.2861)
    assert white["task_arithmetic"]["printed_asr"] == pytest.approx(0.57603, abs=1e-5)  # over the same benchmarks
    wrong = {adapter for adapter, line in white.items() if line["paper_asr_wrong"]}
    assert wrong == {"task_arithmetic", "cb_mistral"}
    assert not one_row(asr, adapter="none", benchmark="Black-box average")["paper_asr_wrong"]
    summary = paper_tables["repbend_summary"]
    released = one_row(summary, adapter="released_cb")
    assert [round(released[f"paper_overall{end}"], 4) for end in ("", "_recomputed")] == [0.7362, 0.7711]
    assert bool(released["paper_overall_wrong"]) and not one_row(summary, adapter="none")["paper_overall_wrong"]


def test_text_shows_printed_numbers_and_survives_a_round_trip(
    paper_tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    text = shown("repbend_asr", paper_tables["repbend_asr"])
    assert list(text.columns) == ["model", "ASR, %", "kind", *ADAPTERS_SHOWN]
    assert set(text["model"]) == {"Mistral-7B-Instruct-v0.2"}
    white = text[text["ASR, %"] == "White-box average of 3"].iloc[0]
    assert white["TA"].endswith("(paper 55.63, recomputed 57.60)") and white["RepBend"].endswith("(paper 2.78)")
    harm = text[text["ASR, %"] == "HarmBench"].iloc[0]
    assert harm["RepBend"] == "10.3 [5.3, 19.0] (n 78, 2 not scored) (paper 1.56)"
    assert shown("repbend_summary", paper_tables["repbend_summary"])["overall, %"].str.contains("paper").all()
    assert "(paper 60.18)" in shown("repbend_capability", paper_tables["repbend_capability"]).iloc[0]["Original"]
    assert "averages disagree" in note("repbend_asr", paper_tables["repbend_asr"])
    write_tables(tmp_path / "tables", paper_tables)
    back = read_tables(tmp_path / "tables")
    for name in ("repbend_asr", "repbend_summary", "repbend_capability"):
        pd.testing.assert_frame_equal(back[name], paper_tables[name], check_dtype=False, rtol=1e-5)
        pd.testing.assert_frame_equal(shown(name, back[name]), shown(name, paper_tables[name]))


def test_study_without_paper_has_no_printed_columns(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "tiny_safety_test")
    cells = [
        safety_cell(tmp_path, data, "tiny", adapter, "none", harmful, attack)
        for adapter, harmful in (("none", 34), ("repbend", 2))
        for attack in ("direct", "prefilling", "embedding")
    ]
    tables = make_tables(cells)
    asr = tables["repbend_asr"]
    assert list(asr[asr["adapter"] == "none"]["benchmark"]) == [
        "tiny_safety_test", "tiny_safety_test, prefilling", "tiny_safety_test, embedding", "White-box average", TOTAL
    ]  # fmt: skip
    assert one_row(asr, adapter="repbend", benchmark=TOTAL)["asr"] == pytest.approx(4 / 78)
    line = one_row(tables["repbend_summary"], adapter="repbend")
    assert line["benign_answered"] == 0.9 and pd.isna(line["capability"]) and pd.isna(line["overall"])
    assert not [name for table in tables.values() for name in table if name.startswith(("printed", "paper"))]


def test_average_over_the_same_prompts_has_the_interval_of_one_rate(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "harmbench")
    cells = [safety_cell(tmp_path, data, "tiny", "none", "none", 20, a) for a in ("prefilling", "embedding", "gcg")]
    white = one_row(make_tables(cells)["repbend_asr"], benchmark="White-box average")
    assert (white["asr_low"], white["asr_high"]) == pytest.approx(wilson(40, 78))


def test_average_with_an_unscored_benchmark_is_unknown(tmp_path: Path) -> None:
    data = [evaluation_data(tmp_path, name) for name in ("one", "two")]
    cells = [safety_cell(tmp_path, path, "tiny", "none", "none", 20, judges={}) for path in data]
    lines = [{"row_id": f"e1i{i}", "attempt": 0, "not_scored": "no"} for i in range(40)]
    write_parquet(cells[1]["scores"]["safety"], pa.Table.from_pylist(lines, SAFETY_VERDICTS))
    total = one_row(make_tables(cells)["repbend_asr"], benchmark=TOTAL)
    assert pd.isna(total["asr"]) and total["asr_not_scored"] == 42


def test_released_models_and_safety_prompt_are_columns_like_adapters(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "paper_harmbench")
    models = [("mistral_7b", "none", "none"), ("mistral_7b", "none", "safety_prompt"), ("mistral_7b", "rmu", "none")]
    models += [(model, "none", "none") for model in ("rr_mistral_7b", "r2d2_zephyr_7b", "rr_llama3_8b")]
    cells = [
        safety_cell(
            tmp_path, data, model, adapter, control, 4, judges={}, method="prompting" if "_" in control else "none"
        )
        for model, adapter, control in models
    ]
    tables = make_tables(with_printed_names(cells), paper="repbend")
    asr = tables["repbend_asr"]
    direct = asr[asr["benchmark"] == "HarmBench"].set_index(["model", "method"])["printed_asr"]
    assert direct.to_dict() == {
        ("mistral_7b", "Original"): 0.5094, ("mistral_7b", "Safety Prompting"): 0.2, ("mistral_7b", "RMU"): 0.0375,
        ("rr_mistral_7b", "CB (released)"): 0.1344, ("r2d2_zephyr_7b", "R2D2 (released)"): 0.0563,
        ("rr_llama3_8b", "CB (released)"): 0.1344,
    }  # fmt: skip
    text = shown("repbend_asr", asr)
    assert list(text["model"].unique()) == ["Mistral-7B-Instruct-v0.2", "Llama-3-8B-Instruct"]
    harm = text[text["ASR, %"] == "HarmBench"].iloc[0]
    assert harm["R2D2 (released)"].endswith("(paper 5.63)") and harm["Safety Prompting"].endswith("(paper 20.00)")
    pairs = tables["repbend_pairs"]
    assert {("rmu", "none"), ("safety_prompt", "none")} == set(zip(pairs["adapter"], pairs["against"], strict=True))
    prompted = one_row(tables["repbend"], control="safety_prompt", prompts="harmful", group="all")
    assert prompted["printed_asr"] == 0.2


def test_two_models_with_one_printed_name_have_separate_rows(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "paper_harmbench")
    cells = [
        safety_cell(tmp_path, data, model, "none", "none", 4, judges={})
        for model in ("llama3_8b", "llama3_8b_instruct")
    ]
    text = shown("repbend_asr", make_tables(with_printed_names(cells), paper="repbend")["repbend_asr"])
    assert list(text["model"].unique()) == ["llama3_8b", "llama3_8b_instruct"] and "none" in text
