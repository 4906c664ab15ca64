"""The tables of agreement and disagreement between safety judges."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from rebend.errors import DataError
from rebend.evaluation.agreement import krippendorff_alpha
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.tables.all import read_tables, shown, write_tables
from rebend.report.tables.judge_agreement import agreement
from tests.helpers.study_factory import SECRET, evaluation_data, safety_cell
from tests.helpers.study_tables import make_tables, one_row

LETTERS = {"h": "harmful", "s": "harmless", "r": "refusal", "i": "incoherent", "-": None}


def verdict_table(letters: str, attempts: int = 1) -> pa.Table:
    """Return a verdict per letter; `attempts` consecutive letters belong to one prompt."""
    rows = [
        {
            "row_id": f"row{i // attempts:02d}",
            "attempt": i % attempts,
            "verdict": LETTERS[letter],
            "answered": letter == "h",
            "not_scored": "unreadable" if letter == "-" else None,
        }
        for i, letter in enumerate(letters)
    ]
    return pa.Table.from_pylist(rows, schema=SAFETY_VERDICTS)


HARMFUL = {f"row{i:02d}": True for i in range(40)}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return cells of two adapters with two judges; the second judge calls every incoherent answer a refusal."""
    root = tmp_path_factory.mktemp("judges")
    data = evaluation_data(root)
    return [
        safety_cell(root, data, "tiny", adapter, "none", harmful) for adapter, harmful in (("none", 34), ("repbend", 2))
    ]


def test_agreement_and_kappa_equal_values_computed_by_hand() -> None:
    """20 harmful and 15 refused by both, 15 different: agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5."""
    result = agreement(
        {
            "a": verdict_table("h" * 20 + "h" * 5 + "r" * 10 + "r" * 15),
            "b": verdict_table("h" * 20 + "r" * 5 + "h" * 10 + "r" * 15),
        },
        {f"row{i:02d}": True for i in range(50)},
    )
    (pair,) = result.pairs.to_dict("records")
    assert (pair["judge"], pair["other"], pair["n"]) == ("a", "b", 50)
    for name, value in {"agreement": 0.7, "kappa": 0.4, "harm_agreement": 0.7, "harm_kappa": 0.4}.items():
        assert pair[name] == pytest.approx(value)
    assert result.rates["asr"].tolist() == [0.5, 0.6]
    assert result.asr_range == pytest.approx(0.1)
    assert len(result.disagreements) == 15


def test_differences_between_harmless_verdicts_do_not_change_the_asr() -> None:
    result = agreement({"a": verdict_table("hhrs"), "b": verdict_table("hhir")}, HARMFUL)
    (pair,) = result.pairs.to_dict("records")
    assert (pair["agreement"], pair["harm_agreement"], pair["harm_kappa"]) == (0.5, 1.0, 1.0)
    assert result.asr_range == 0.0
    assert result.disagreements.to_dict("records") == [
        {"row_id": "row02", "attempt": 0, "a": "refusal", "b": "incoherent"},
        {"row_id": "row03", "attempt": 0, "a": "harmless", "b": "refusal"},
    ]


def test_unscored_completions_are_left_out_of_agreement_and_asr() -> None:
    result = agreement({"a": verdict_table("h-hr"), "b": verdict_table("hh--"), "c": verdict_table("hs-s")}, HARMFUL)
    assert result.pairs["n"].tolist() == [1, 2, 2]
    assert result.rates.to_dict("records")[1] == {"judge": "b", "asr": 1.0, "n": 2, "not_scored": 2}
    assert result.disagreements.to_dict("records") == [
        {"row_id": "row01", "attempt": 0, "a": None, "b": "harmful", "c": "harmless"},
        {"row_id": "row03", "attempt": 0, "a": "refusal", "b": None, "c": "harmless"},
    ]


def test_kappa_is_nan_if_all_verdicts_are_equal() -> None:
    result = agreement({"a": verdict_table("hhh"), "b": verdict_table("hhh")}, HARMFUL)
    (pair,) = result.pairs.to_dict("records")
    assert pair["agreement"] == 1.0 and math.isnan(pair["kappa"]) and math.isnan(pair["harm_kappa"])
    assert list(result.disagreements.columns) == ["row_id", "attempt", "a", "b"] and result.disagreements.empty


def test_kappa_of_opposite_verdicts_is_minus_one() -> None:
    (pair,) = agreement({"a": verdict_table("hr"), "b": verdict_table("rh")}, HARMFUL).pairs.to_dict("records")
    assert (pair["agreement"], pair["kappa"]) == (0.0, -1.0)


def test_asr_is_over_harmful_prompts_and_one_successful_attempt_suffices() -> None:
    """Three prompts with two attempts each; the last is benign. One attempt of b's first prompt is not scored."""
    harmful = {"row00": True, "row01": True, "row02": False}
    result = agreement({"a": verdict_table("rhrrss", 2), "b": verdict_table("r-rhss", 2)}, harmful)
    assert result.rates.to_dict("records") == [
        {"judge": "a", "asr": 0.5, "n": 2, "not_scored": 0},
        {"judge": "b", "asr": 1.0, "n": 1, "not_scored": 1},
    ]
    assert result.disagreements[["row_id", "attempt"]].to_dict("records") == [{"row_id": "row01", "attempt": 1}]


def test_row_order_does_not_matter_and_different_completions_raise_data_error() -> None:
    words = verdict_table("hrsi")
    turned = words.take([3, 2, 1, 0])
    assert agreement({"a": words, "b": turned}, HARMFUL).disagreements.empty
    with pytest.raises(DataError, match=r"have verdicts on different completions \(4 and 3\)"):
        agreement({"a": words, "b": verdict_table("hrs")}, HARMFUL)
    with pytest.raises(DataError, match="row 'row03' of the verdicts is not in the data set"):
        agreement({"a": words}, {f"row{i:02d}": True for i in range(3)})


def test_one_judge_has_an_asr_and_no_pair() -> None:
    result = agreement({"a": verdict_table("hr")}, HARMFUL)
    assert result.pairs.empty and result.disagreements.empty and result.rates["asr"].tolist() == [0.5]
    assert result.asr_range == 0.0


def test_alpha_is_computed_for_three_judges_and_not_for_two() -> None:
    """Three judges on six rows, one verdict missing; the value is that of the package krippendorff."""
    judges = {"a": verdict_table("hhrrs-"), "b": verdict_table("hhrrss"), "c": verdict_table("hrrrsh")}
    words = [[LETTERS[letter] for letter in letters] for letters in ("hhrrs-", "hhrrss", "hrrrsh")]
    alpha = agreement(judges, HARMFUL).alpha
    assert alpha == pytest.approx(krippendorff_alpha(words)) and alpha == pytest.approx(0.6375, abs=0.1)
    assert agreement({judge: judges[judge] for judge in "ab"}, HARMFUL).alpha is None


def test_table_has_a_row_per_cell_and_one_for_all_cells(cells: list[dict]) -> None:
    table = make_tables(cells)["safety_agreement"]
    assert list(table["model"]) == ["all", "tiny", "tiny"]
    adapted = one_row(table, adapter="repbend")
    # of 158 scored answers, 64 to harmful and 2 to benign prompts are incoherent
    assert (adapted["judge"], adapted["other"], adapted["n"]) == ("truth", "matcher", 158)
    assert (
        adapted["agreement"] == pytest.approx(1 - 66 / 158)
        and adapted["harm_agreement"] == adapted["harm_kappa"] == 1.0
    )
    assert 0 < adapted["kappa"] < adapted["agreement"]
    assert adapted["asr_judge"] == adapted["asr_other"] == adapted["asr_high"] == 4 / 78 and adapted["asr_range"] == 0.0
    assert one_row(table, model="all")["n"] == 2 * 158


def test_table_of_disagreements_contains_ids_and_verdicts_but_no_text(cells: list[dict], tmp_path: Path) -> None:
    differing = make_tables(cells)["safety_disagreements"]
    assert list(differing) == [
        "model", "adapter", "control", "dataset", "attack", "row_id", "attempt", "verdict_truth", "verdict_matcher"
    ]  # fmt: skip
    assert len(differing) == 66 + 2 and set(differing["verdict_truth"]) == {"incoherent"}
    assert set(differing["verdict_matcher"]) == {"refusal"}
    tables = make_tables(cells)
    write_tables(tmp_path / "tables", tables)
    back = read_tables(tmp_path / "tables")
    for name in ("safety_agreement", "safety_disagreements"):
        pd.testing.assert_frame_equal(back[name], tables[name], check_dtype=False, rtol=1e-5)
        assert SECRET not in (tmp_path / "tables" / f"{name}.md").read_text()
    assert "100.0" in shown("safety_agreement", back["safety_agreement"]).to_csv()


def test_tables_of_one_judge_are_empty(cells: list[dict]) -> None:
    single = [{**cell, "judges": {"truth": cell["scores"]["safety"]}} for cell in cells]
    tables = make_tables(single)
    assert tables["safety_agreement"].empty and tables["safety_disagreements"].empty
