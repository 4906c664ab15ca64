"""RepBend's Table 2 recomputed from its own cells: the formula, and every row where the paper disagrees with itself."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rebend.report.published import BENCHMARKS, mean_capability, overall, printed_scores, recomputed_summary

PUBLISHED = Path(__file__).parents[3] / "resources/published"
MISTRAL, LLAMA = "Mistral-7B-Instruct-v0.2", "Llama-3-8B-Instruct"
R2D2, CB = (MISTRAL, "R2D2", True), (MISTRAL, "CB", True)
# (row, average) -> what its own parts give
OFF = {
    (R2D2, "capability"): 0.5045,
    (CB, "capability"): 0.5692,
    ((LLAMA, "CB", True), "capability"): 0.6644,
    ((MISTRAL, "NPO", False), "overall"): 0.7252,
    (R2D2, "overall"): 0.6918,
    (CB, "overall"): 0.7711,
    ((LLAMA, "NPO", False), "overall"): 0.7164,
}


@pytest.fixture(scope="module")
def summary() -> pd.DataFrame:
    return recomputed_summary(PUBLISHED)


def test_every_printed_row_but_the_listed_ones_is_the_mean_of_its_parts(summary: pd.DataFrame) -> None:
    assert len(summary) == 15
    off = {(row, name) for name in ("capability", "overall") for row in summary.index[~summary[f"{name}_agrees"]]}
    assert off == set(OFF)
    for (row, name), value in OFF.items():
        assert summary.loc[row, name] == pytest.approx(value, abs=6e-5)


def test_other_weights_of_mt_bench_fit_no_row(summary: pd.DataFrame) -> None:
    scores = printed_scores(PUBLISHED).reindex(summary.index)
    as_percent = scores.assign(mt_bench=scores["mt_bench"] / 10).mean(axis=1)
    without = scores.drop(columns="mt_bench").mean(axis=1)
    for other in (as_percent, without):
        assert ((other - summary["capability_printed"]).abs() > 1e-3).all()


def test_two_exchanged_cells_explain_mistrals_released_weights(summary: pd.DataFrame) -> None:
    scores = printed_scores(PUBLISHED)
    scores.loc[[R2D2, CB], "codex_eval"] = scores.loc[[CB, R2D2], "codex_eval"].to_numpy()
    for row, other in ((R2D2, CB), (CB, R2D2)):
        assert mean_capability(scores.loc[row].to_dict()) == pytest.approx(
            summary.loc[row, "capability_printed"], abs=1e-4
        )
        change = (summary.loc[other, "capability_printed"] - summary.loc[row, "capability_printed"]) / 3
        assert summary.loc[row, "overall"] + change == pytest.approx(summary.loc[row, "overall_printed"], abs=1e-4)


def test_the_same_formula_gives_the_overall_scores_of_the_other_models() -> None:
    table = pd.read_csv(PUBLISHED / "repbend_other_models.csv")
    for row in table.to_dict("records"):
        asr = (row["harmbench_asr_percent"] + row["wildguardtest_asr_percent"]) / 200
        compliance = [row["xstest_compliance_percent"] / 100, row["wildjailbreak_benign_compliance_percent"] / 100]
        capability = mean_capability(
            {"mt_bench": row["mt_bench"] / 10, "mmlu": row["mmlu"] / 100}, ["mt_bench", "mmlu"]
        )
        assert capability is not None
        assert overall(asr, compliance, capability) == pytest.approx(row["overall"] / 100, abs=1e-4)


def test_the_printed_scores_are_shares_of_these_many_questions() -> None:
    printed = printed_scores(PUBLISHED)
    for name, questions, fitting in (("gsm8k", 200, 15), ("bbh", 27 * 40, 14)):
        shares = (printed[name] * questions).round() / questions
        assert ((printed[name] - shares).abs() < 5.1e-5).sum() == fitting


def test_a_mean_over_fewer_benchmarks_must_be_asked_for_by_name() -> None:
    scores: dict[str, float | None] = dict.fromkeys(BENCHMARKS, 0.5)
    assert mean_capability(scores) == 0.5
    assert mean_capability({**scores, "bbh": None}) is None
    assert mean_capability({"mmlu": 0.4, "gsm8k": 0.2}) is None
    assert mean_capability({"mmlu": 0.4, "gsm8k": 0.2}, ["mmlu", "gsm8k"]) == pytest.approx(0.3)
    assert mean_capability({}, []) is None
