"""Numbers printed in the papers: lookup by the keys `published`, and recomputed averages."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from rebend.errors import ConfigError
from rebend.pipeline.checks.published import printed_names
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.plan import Plan
from rebend.report.measurements import Cell
from rebend.report.published import (
    BENCHMARKS,
    RecontrolPaper,
    RepbendPaper,
    mean_capability,
    overall,
    printed_scores,
    recomputed_summary,
)

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "resources" / "published"
# Numbers of an earlier version that matched names by their words; the key `published` must give the same numbers
EXPECTED = Path(__file__).with_name("printed_cells.csv")
Key = tuple[str, ...]
MISTRAL, LLAMA = "Mistral-7B-Instruct-v0.2", "Llama-3-8B-Instruct"
R2D2, CB = (MISTRAL, "R2D2", True), (MISTRAL, "CB", True)
# (row, average) -> value recomputed from its parts
DIFFERENT = {
    (R2D2, "capability"): 0.5045,
    (CB, "capability"): 0.5692,
    ((LLAMA, "CB", True), "capability"): 0.6644,
    ((MISTRAL, "NPO", False), "overall"): 0.7252,
    (R2D2, "overall"): 0.6918,
    (CB, "overall"): 0.7711,
    ((LLAMA, "NPO", False), "overall"): 0.7164,
}


def plan_of(study: str, **sections: Mapping[str, Any]) -> Plan:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for section, blocks in sections.items():
        raw[section] = raw[section] | blocks
    return load_plan({**raw, "study": study}, ROOT / "config/studies")


def printed(study: str) -> Iterator[tuple[Key, float]]:
    """Yield (model, adapter, control, data set, attack, column) and the printed number of each cell that has one."""
    plan = plan_of(study)
    summary = plan.summary(str(FOLDER))
    for cell, described in zip(plan.cells, summary["cells"], strict=True):
        key = (cell.base, cell.adapter, cell.control, cell.dataset, cell.attack)
        for column, value in numbers(study, described).items():
            if value is not None:
                yield (*key, column), value
    for (base, adapter, name), entry in zip(plan.benchmarks, summary["capabilities"], strict=True):
        value = RepbendPaper(FOLDER).score_of(entry)
        if value is not None:
            yield (base, adapter, "", "", "", name), value


def numbers(study: str, cell: Cell) -> dict[str, float | None]:
    if study == "paper_recontrol":
        return RecontrolPaper(FOLDER).row(cell)
    paper = RepbendPaper(FOLDER)
    names = paper.model(cell), paper.method(cell)
    asr, answered = paper.asr_of(*names, paper.benchmark(cell)), paper.answered_of(*names, paper.compliance_of(cell))
    return {"asr": asr, "answered": answered}


def names(**published: str | list[str]) -> dict[str, Any]:
    """Return a cell's printed names by part."""
    return {part: [name] if isinstance(name, str) else name for part, name in published.items()}


def cell(**changes: Any) -> dict[str, Any]:
    """Return a cell without adapter, control and attack."""
    nothing = {"adapter": "none", "control": "none", "method": "none", "attack_method": "direct", "published": {}}
    return {**nothing, **changes}


@pytest.fixture(scope="module")
def summary() -> pd.DataFrame:
    return recomputed_summary(FOLDER)


@pytest.mark.parametrize("study", ["paper_recontrol", "paper_repbend"])
def test_cells_of_the_paper_studies_have_the_numbers_printed_for_them(study: str) -> None:
    with EXPECTED.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[0] == study]
    assert dict(printed(study)) == {tuple(row[1:-1]): float(row[-1]) for row in rows}


@pytest.mark.parametrize("name", ["without_dpo", "dpo", "paper_dpo_again"])
def test_block_without_published_has_no_printed_numbers(name: str) -> None:
    plan = plan_of("paper_repbend", adapters={name: {"like": "paper_dpo", "retain_weight": 0.5}})
    first = next(cell for cell in plan.cells if cell.adapter == "paper_dpo" and cell.dataset == "paper_harmbench")
    cell = first.__class__(**{**vars(first), "adapter": name}).described(plan.config)
    assert cell["published"]["adapter"] == [] and set(numbers("paper_repbend", cell).values()) == {None}
    assert numbers("paper_repbend", first.described(plan.config))["asr"] == 0.2563


@pytest.mark.parametrize(
    ("section", "block", "published", "message"),
    [
        ("adapters", "paper_dpo", "DPQ", r"adapters\.paper_dpo\.published: no paper prints 'DPQ'.*Did you mean 'DPO'"),
        ("datasets", "paper_dan", "GCG", r"datasets\.paper_dan\.published: no paper prints 'GCG'. Allowed: HH-RLHF"),
        ("models", "vicuna_7b", ["Vicuna-7B", "Vicuna"], "no paper prints 'Vicuna'.*Did you mean 'Vicuna-7B'"),
        ("controls", "none_128", "Bases", "no paper prints 'Bases'.*Did you mean 'Base'"),
    ],
)
def test_unknown_printed_name_raises_config_error(section: str, block: str, published: Any, message: str) -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())[section][block]
    with pytest.raises(ConfigError, match=message):
        plan_of("tiny", **{section: {block: {**raw, "published": published}}})


def test_allowed_printed_names_are_in_the_tables() -> None:
    recontrol, repbend = RecontrolPaper(FOLDER).table, RepbendPaper(FOLDER)
    methods = set(repbend.summary["name"])
    printed_by_section = {
        "models": {*recontrol["model"], *repbend.asr["model"], *methods},
        "datasets": {*recontrol["dataset"], *repbend.asr["benchmark"], "xstest", "wildjailbreak_benign"},
        "attacks": set(repbend.asr["benchmark"]),
        "adapters": methods,
        "controls": {*recontrol["method"], *methods},
        "capabilities": set(repbend.capability["benchmark"]),
    }
    allowed = printed_names(FOLDER)
    assert set(allowed) == set(printed_by_section)
    assert {section: set(names) - printed_by_section[section] for section, names in allowed.items()} == {
        key: set() for key in printed_by_section
    }


def test_two_blocks_with_one_label_raise_config_error() -> None:
    with pytest.raises(ConfigError, match=r"adapters tiny_dpo, tiny_npo are all called 'preferences' in tables"):
        raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())["adapters"]
        plan_of("tiny", adapters={n: {**raw[n], "label": "preferences"} for n in ("tiny_dpo", "tiny_npo")})


def test_empty_printed_cell_is_none() -> None:
    paper = RecontrolPaper(FOLDER)
    row = paper.row(cell(published=names(model="Falcon-7B", dataset="HH-RLHF", control="Base")))
    assert row["diversity"] is None and row["reward"] == 3.439 and row["hours"] is None
    assert set(paper.row(cell(published=names(model="GPT-2", dataset="HH-RLHF", control="Base"))).values()) == {None}
    assert set(paper.row(cell(published=names(model="Falcon-7B", dataset="HH-RLHF"))).values()) == {None}


def test_names_of_blocks_are_not_used_for_lookup() -> None:
    paper = RepbendPaper(FOLDER)
    assert paper.model(cell(model="llama3_8b_instruct")) is None
    assert paper.benchmark(cell(dataset="harmbench")) is None
    assert paper.method(cell(adapter="without_dpo")) is None
    assert paper.method(cell()) == "Original"


def test_method_is_that_of_the_adapter_the_instruction_or_the_released_model() -> None:
    paper = RepbendPaper(FOLDER)
    assert paper.method(cell(adapter="mine", published=names(adapter="CB"))) == "CB"
    prompted = cell(control="mine", method="prompting", published=names(control="Safety Prompting"))
    assert paper.method(prompted) == "Safety Prompting"
    released = names(model=[LLAMA, "CB (released)"])
    assert paper.method(cell(published=released)) == "CB (released)" and paper.model(cell(published=released)) == LLAMA
    assert paper.method(cell(control="value", method="value")) is None  # the paper does not print controls
    assert paper.method(cell(adapter="mine", method="value", published=names(adapter="CB"))) is None
    assert paper.method(cell(adapter="mine", published=released | names(adapter="DPO"))) is None


def test_attacks_are_columns_of_table_1_for_harmbench_only() -> None:
    paper = RepbendPaper(FOLDER)
    attack = {"attack_method": "gcg"}
    assert paper.benchmark(cell(**attack, published=names(dataset="HarmBench", attack="GCG"))) == "GCG"
    assert paper.benchmark(cell(**attack, published=names(dataset="DAN", attack="GCG"))) is None
    assert paper.benchmark(cell(**attack, published=names(dataset="HarmBench"))) is None
    assert paper.benchmark(cell(published=names(dataset="DAN"))) == "DAN"


def test_tables_3_and_6_add_their_methods_and_models() -> None:
    paper, mistral = RepbendPaper(FOLDER), "Mistral-7B-Instruct-v0.2"
    assert paper.asr_of(mistral, "DPO", "HarmBench") == 0.2563
    assert paper.asr_of("Gemma2-2B-Instruct", "RepBend", "WildGuardTest (ID)") == 0.0134
    assert paper.asr_of(mistral, "NPO", "HarmBench") == 0.0006  # Table 6 also has one without a safe set
    assert paper.asr_of(mistral, "DPO", "Total average") is None


def test_printed_averages_equal_recomputed_ones_except_in_listed_rows(summary: pd.DataFrame) -> None:
    assert len(summary) == 15
    differing = {(row, name) for name in ("capability", "overall") for row in summary.index[~summary[f"{name}_agrees"]]}
    assert differing == set(DIFFERENT)
    for (row, name), value in DIFFERENT.items():
        assert summary.loc[row, name] == pytest.approx(value, abs=6e-5)


def test_other_weights_of_mt_bench_reproduce_no_row(summary: pd.DataFrame) -> None:
    scores = printed_scores(FOLDER).reindex(summary.index)
    as_percent = scores.assign(mt_bench=scores["mt_bench"] / 10).mean(axis=1)
    without = scores.drop(columns="mt_bench").mean(axis=1)
    for other in (as_percent, without):
        assert ((other - summary["capability_printed"]).abs() > 1e-3).all()


def test_swapping_two_cells_reproduces_the_averages_of_released_mistral_weights(summary: pd.DataFrame) -> None:
    scores = printed_scores(FOLDER)
    scores.loc[[R2D2, CB], "codex_eval"] = scores.loc[[CB, R2D2], "codex_eval"].to_numpy()
    for row, other in ((R2D2, CB), (CB, R2D2)):
        assert mean_capability(scores.loc[row].to_dict()) == pytest.approx(
            summary.loc[row, "capability_printed"], abs=1e-4
        )
        change = (summary.loc[other, "capability_printed"] - summary.loc[row, "capability_printed"]) / 3
        assert summary.loc[row, "overall"] + change == pytest.approx(summary.loc[row, "overall_printed"], abs=1e-4)


def test_formula_reproduces_overall_scores_of_the_other_models() -> None:
    table = pd.read_csv(FOLDER / "repbend_other_models.csv")
    for row in table.to_dict("records"):
        asr = (row["harmbench_asr_percent"] + row["wildguardtest_asr_percent"]) / 200
        compliance = [row["xstest_compliance_percent"] / 100, row["wildjailbreak_benign_compliance_percent"] / 100]
        capability = mean_capability(
            {"mt_bench": row["mt_bench"] / 10, "mmlu": row["mmlu"] / 100}, ["mt_bench", "mmlu"]
        )
        assert capability is not None
        assert overall(asr, compliance, capability) == pytest.approx(row["overall"] / 100, abs=1e-4)


def test_printed_scores_are_multiples_of_one_over_the_number_of_questions() -> None:
    printed = printed_scores(FOLDER)
    for name, questions, fitting in (("gsm8k", 200, 15), ("bbh", 27 * 40, 14)):
        shares = (printed[name] * questions).round() / questions
        assert ((printed[name] - shares).abs() < 5.1e-5).sum() == fitting


def test_mean_capability_needs_all_named_benchmarks() -> None:
    scores: dict[str, float | None] = dict.fromkeys(BENCHMARKS, 0.5)
    assert mean_capability(scores) == 0.5
    assert mean_capability({**scores, "bbh": None}) is None
    assert mean_capability({"mmlu": 0.4, "gsm8k": 0.2}) is None
    assert mean_capability({"mmlu": 0.4, "gsm8k": 0.2}, ["mmlu", "gsm8k"]) == pytest.approx(0.3)
    assert mean_capability({}, []) is None
