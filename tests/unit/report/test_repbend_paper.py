"""RepBend's tables: our figures and the paper's side by side, averages from cells, what is unknown left empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rebend.evaluation.intervals import wilson
from rebend.io.files import write_parquet
from rebend.io.schemas import CAPABILITY, SAFETY_VERDICTS
from rebend.report.published import WHITE_BOX
from rebend.report.side_by_side import beside_paper
from rebend.report.tables.all import note, read_tables, shown, write_tables
from tests.helpers.study_factory import evaluation_data, safety_cell
from tests.unit.report.test_tables import made, one

TABLE_1 = ("paper_wildguardtest", "paper_harmbench", "dan", "paper_trustllm", "pap")
ADAPTERS = ("none", "repbend_mistral", "cb_mistral", "task_arithmetic", "released_cb")
TOTAL = "Total average"
PRINTED = {
    "model": {
        "mistral_7b": ["Mistral-7B-Instruct-v0.2"],
        "rr_mistral_7b": ["Mistral-7B-Instruct-v0.2", "CB (released)"],
        "r2d2_zephyr_7b": ["Mistral-7B-Instruct-v0.2", "R2D2 (released)"],
        "rr_llama3_8b": ["Llama-3-8B-Instruct", "CB (released)"],
        "llama3_8b": ["Llama-3-8B-Instruct"],
        "llama3_8b_instruct": ["Llama-3-8B-Instruct"],
    },
    "adapter": {
        "repbend_mistral": ["RepBend"], "cb_mistral": ["CB"], "task_arithmetic": ["TA"],
        "released_cb": ["CB (released)"], "rmu": ["RMU"],
    },
    "dataset": {
        "paper_wildguardtest": ["WildGuardTest (ID)"], "paper_harmbench": ["HarmBench"], "dan": ["DAN"],
        "paper_trustllm": ["TrustLLM-Jailbreak"], "pap": ["PAP"], "paper_xstest": ["xstest"],
        "paper_wildjailbreak": ["wildjailbreak_benign"],
    },
    "control": {"safety_prompt": ["Safety Prompting"]},
    "attack": {
        "prefilling": ["Prefilling"], "prefilling_harmbench": ["Prefilling"], "embedding": ["Input Embed"],
        "gcg": ["GCG"],
    },
    "capability": {"paper_mmlu": ["MMLU"], "paper_truthfulqa": ["TruthfulQA"]},
}  # fmt: skip


def with_printed_names(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return cells or capabilities with the printed names of their parts."""
    return [
        {**entry, "published": {part: names.get(entry.get(part), []) for part, names in PRINTED.items()}}
        for entry in entries
    ]


def capability(root: Path, model: str, adapter: str, task: str, scores: Sequence[float | None]) -> dict[str, Any]:
    path = root / "capability" / f"{model}+{adapter}" / f"{task}.parquet"
    lines = [
        {"row_id": f"q{i}", "score": s, "not_scored": None if s is not None else "too long", "category": ""}
        for i, s in enumerate(scores)
    ]
    write_parquet(path, pa.Table.from_pylist(lines, CAPABILITY))
    facts = {"method": "none", "adapter_method": adapter.partition("_")[0], "task": task, "path": str(path)}
    return {"model": model, "adapter": adapter, "capability": f"paper_{task}", **facts}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Mistral under five adapters on all of Table 1's benchmarks, on those of over-refusal, and two capabilities."""
    root = tmp_path_factory.mktemp("paper")
    data = {name: evaluation_data(root, name) for name in (*TABLE_1, "paper_xstest", "paper_wildjailbreak")}
    cells, capabilities = [], []
    for i, adapter in enumerate(ADAPTERS):
        for path in data.values():
            cells.append(safety_cell(root, path, "mistral_7b", adapter, "none", 4 * i, judges={}))
        for attack in ("prefilling", "prefilling_harmbench", "embedding", "gcg"):
            cells.append(
                safety_cell(root, data["paper_harmbench"], "mistral_7b", adapter, "none", 8 + i, attack, judges={})
            )
        capabilities.append(capability(root, "mistral_7b", adapter, "mmlu", [1.0, 0.0, 1.0, 1.0, None]))
        capabilities.append(capability(root, "mistral_7b", adapter, "truthfulqa", [0.25, 0.5, 0.75]))
    return made(with_printed_names(cells), paper="repbend", capabilities=with_printed_names(capabilities))


def test_attack_success_stands_beside_the_printed_cell(tables: dict[str, pd.DataFrame]) -> None:
    asr = tables["repbend_asr"]
    line = one(asr, adapter="repbend_mistral", benchmark="HarmBench")
    assert (line["asr"], line["asr_n"], line["asr_not_scored"]) == (8 / 78, 78, 2)
    assert (line["asr_low"], line["asr_high"]) == wilson(8, 78)
    assert (line["method"], line["kind"], line["printed_asr"]) == ("RepBend", "black-box", 0.0156)
    assert one(asr, adapter="none", benchmark="WildGuardTest (ID)")["kind"] == "in-distribution"
    assert one(asr, adapter="none", benchmark="GCG")["kind"] == "white-box"
    ours, theirs = (
        one(asr, adapter=adapter, benchmark="PAP")["printed_asr"] for adapter in ("cb_mistral", "released_cb")
    )
    assert (ours, theirs) == (0.1313, 0.0938)  # trained by the paper's authors, released by others
    assert not asr["dataset"].isin(["paper_xstest", "paper_wildjailbreak"]).any()  # Table 1 does not have them


def test_averages_are_of_cells_and_a_second_attack_of_a_kind_counts_in_none(tables: dict[str, pd.DataFrame]) -> None:
    asr = tables["repbend_asr"]
    assert len(asr[(asr["benchmark"] == "Prefilling") & (asr["adapter"] == "none")]) == 2
    own = asr[asr["adapter"] == "cb_mistral"].drop_duplicates("benchmark").set_index("benchmark")["asr"]
    white = one(asr, adapter="cb_mistral", benchmark="White-box average")
    assert white["asr"] == pytest.approx(own[list(WHITE_BOX)].mean()) and white["benchmarks"] == 3
    assert white["asr_low"] < white["asr"] < white["asr_high"]
    total = one(asr, adapter="cb_mistral", benchmark=TOTAL)
    assert total["benchmarks"] == 8 and total["asr"] == pytest.approx(own.drop(index=own.index[8:]).mean())


def test_the_papers_wrong_averages_are_told_from_its_right_ones(tables: dict[str, pd.DataFrame]) -> None:
    asr = tables["repbend_asr"]
    white = {adapter: one(asr, adapter=adapter, benchmark="White-box average") for adapter in ADAPTERS}
    stated = {adapter: (line["paper_asr"], round(line["paper_asr_recomputed"], 4)) for adapter, line in white.items()}
    assert stated["task_arithmetic"] == (0.5563, 0.5760) and stated["cb_mistral"] == (0.2805, 0.2861)
    assert white["task_arithmetic"]["printed_asr"] == pytest.approx(0.57603, abs=1e-5)  # of the cells that we have too
    wrong = {adapter for adapter, line in white.items() if line["paper_asr_wrong"]}
    assert wrong == {"task_arithmetic", "cb_mistral"}
    assert not one(asr, adapter="none", benchmark="Black-box average")["paper_asr_wrong"]
    summary = tables["repbend_summary"]
    released = one(summary, adapter="released_cb")
    assert [round(released[f"paper_overall{end}"], 4) for end in ("", "_recomputed")] == [0.7362, 0.7711]
    assert bool(released["paper_overall_wrong"]) and not one(summary, adapter="none")["paper_overall_wrong"]


def test_the_summary_is_made_of_its_parts(tables: dict[str, pd.DataFrame]) -> None:
    line = one(tables["repbend_summary"], adapter="repbend_mistral")
    assert line["asr"] == one(tables["repbend_asr"], adapter="repbend_mistral", benchmark=TOTAL)["asr"]
    assert line["xstest"] == line["wildjailbreak_benign"] == line["benign_answered"] == 0.9
    assert line["capability"] == pytest.approx((0.75 + 0.5) / 2) and line["capability_benchmarks"] == 2
    assert line["overall"] == pytest.approx(((1 - line["asr"]) + 0.9 + 0.625) / 3)
    assert (line["printed_xstest"], line["printed_wildjailbreak_benign"]) == (0.8489, 0.936)
    assert line["paper_overall"] == 0.8123
    assert line["printed_capability"] == pytest.approx((0.5948 + 0.7833) / 2)  # MMLU and TruthfulQA alone
    assert line["printed_asr"] == pytest.approx(line["paper_asr"], abs=1e-4)  # all eight benchmarks were measured
    parts = (1 - line["printed_asr"], (0.8489 + 0.936) / 2, line["printed_capability"])
    assert line["printed_overall"] == pytest.approx(sum(parts) / 3)


def test_capability_is_per_benchmark_with_what_was_not_scored(tables: dict[str, pd.DataFrame]) -> None:
    line = one(tables["repbend_capability"], adapter="none", benchmark="mmlu")
    assert (line["score"], line["score_n"], line["score_not_scored"]) == (0.75, 4, 1)
    assert (line["score_low"], line["score_high"]) == wilson(3, 4)
    assert line["printed_score"] == pytest.approx(0.6018)
    half = one(tables["repbend_capability"], adapter="none", benchmark="truthfulqa")
    assert half["score"] == 0.5 and half["score_low"] < 0.5 < half["score_high"]


def test_the_paper_is_read_beside_ours(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    text = shown("repbend_asr", tables["repbend_asr"])
    assert list(text.columns) == ["model", "ASR, %", "kind", *ADAPTERS_SHOWN]
    assert set(text["model"]) == {"Mistral-7B-Instruct-v0.2"}
    white = text[text["ASR, %"] == "White-box average of 3"].iloc[0]
    assert white["TA"].endswith("(paper 55.63, its cells 57.60)") and white["RepBend"].endswith("(paper 2.78)")
    harm = text[text["ASR, %"] == "HarmBench"].iloc[0]
    assert harm["RepBend"] == "10.3 [5.3, 19.0] (n 78, 2 not scored) (paper 1.56)"
    assert shown("repbend_summary", tables["repbend_summary"])["overall, %"].str.contains("paper").all()
    assert "(paper 60.18)" in shown("repbend_capability", tables["repbend_capability"]).iloc[0]["Original"]
    assert "own averages" in note("repbend_asr", tables["repbend_asr"])
    write_tables(tmp_path / "tables", tables)  # what is read again is what was written
    back = read_tables(tmp_path / "tables")
    for name in ("repbend_asr", "repbend_summary", "repbend_capability"):
        pd.testing.assert_frame_equal(back[name], tables[name], check_dtype=False, rtol=1e-5)
        pd.testing.assert_frame_equal(shown(name, back[name]), shown(name, tables[name]))


ADAPTERS_SHOWN = ("Original", "RepBend", "CB", "TA", "CB (released)")


def test_a_study_without_a_paper_has_the_same_tables(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "tiny_safety_test")
    cells = [
        safety_cell(tmp_path, data, "tiny", adapter, "none", harmful, attack)
        for adapter, harmful in (("none", 34), ("repbend", 2))
        for attack in ("direct", "prefilling", "embedding")
    ]
    found = made(cells)
    asr = found["repbend_asr"]
    assert list(asr[asr["adapter"] == "none"]["benchmark"]) == [
        "tiny_safety_test", "tiny_safety_test, prefilling", "tiny_safety_test, embedding", "White-box average", TOTAL
    ]  # fmt: skip
    assert one(asr, adapter="repbend", benchmark=TOTAL)["asr"] == pytest.approx(4 / 78)
    line = one(found["repbend_summary"], adapter="repbend")
    assert line["benign_answered"] == 0.9 and pd.isna(line["capability"]) and pd.isna(line["overall"])
    assert not [name for table in found.values() for name in table if name.startswith(("printed", "paper"))]


def test_an_average_over_rates_that_go_together_is_no_more_certain_than_one_of_them(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "harmbench")
    cells = [safety_cell(tmp_path, data, "tiny", "none", "none", 20, a) for a in ("prefilling", "embedding", "gcg")]
    white = one(made(cells)["repbend_asr"], benchmark="White-box average")
    assert (white["asr_low"], white["asr_high"]) == pytest.approx(wilson(40, 78))


def test_an_average_with_a_part_that_was_not_scored_is_unknown(tmp_path: Path) -> None:
    data = [evaluation_data(tmp_path, name) for name in ("one", "two")]
    cells = [safety_cell(tmp_path, path, "tiny", "none", "none", 20, judges={}) for path in data]
    lines = [{"row_id": f"e1i{i}", "attempt": 0, "not_scored": "no"} for i in range(40)]
    write_parquet(cells[1]["scores"]["safety"], pa.Table.from_pylist(lines, SAFETY_VERDICTS))
    total = one(made(cells)["repbend_asr"], benchmark=TOTAL)
    assert pd.isna(total["asr"]) and total["asr_not_scored"] == 42


def test_models_made_safe_by_others_and_a_safety_prompt_stand_beside_the_adapters(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "paper_harmbench")
    models = [("mistral_7b", "none", "none"), ("mistral_7b", "none", "safety_prompt"), ("mistral_7b", "rmu", "none")]
    models += [(model, "none", "none") for model in ("rr_mistral_7b", "r2d2_zephyr_7b", "rr_llama3_8b")]
    cells = [
        safety_cell(
            tmp_path, data, model, adapter, control, 4, judges={}, method="prompting" if "_" in control else "none"
        )
        for model, adapter, control in models
    ]
    found = made(with_printed_names(cells), paper="repbend")
    asr = found["repbend_asr"]
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
    pairs = found["repbend_pairs"]
    assert {("rmu", "none"), ("safety_prompt", "none")} == set(zip(pairs["adapter"], pairs["against"], strict=True))
    prompted = one(found["repbend"], control="safety_prompt", prompts="harmful", group="all")
    assert prompted["printed_asr"] == 0.2


def test_two_of_our_models_under_one_printed_name_keep_their_lines(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "paper_harmbench")
    cells = [
        safety_cell(tmp_path, data, model, "none", "none", 4, judges={})
        for model in ("llama3_8b", "llama3_8b_instruct")
    ]
    text = shown("repbend_asr", made(with_printed_names(cells), paper="repbend")["repbend_asr"])
    assert list(text["model"].unique()) == ["llama3_8b", "llama3_8b_instruct"] and "none" in text


def test_what_the_paper_prints_is_shown_once() -> None:
    right: dict[str, Any] = {"printed_asr": 0.1, "paper_asr": 0.2, "paper_asr_recomputed": 0.2}
    assert beside_paper("1.0", right, "asr") == "1.0 (paper 20.00, of the same 10.00)"
    assert beside_paper("1.0", {**right, "printed_asr": 0.2}, "asr") == "1.0 (paper 20.00)"
    assert beside_paper("1.0", {"printed_asr": 0.1}, "asr") == "1.0 (paper 10.00)"
    assert beside_paper("1.0", {"printed_asr": None}, "asr") == "1.0"
    wrong: dict[str, Any] = {"paper_asr": 0.5563, "paper_asr_recomputed": 0.57603, "paper_asr_wrong": True}
    assert beside_paper("", wrong, "asr") == "(paper 55.63, its cells 57.60)"
