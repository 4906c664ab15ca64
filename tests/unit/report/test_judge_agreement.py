"""Judges of the same completions: how far they agree, and on what not."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from rebend.errors import DataError
from rebend.evaluation.agreement import krippendorff_alpha
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.tables.judge_agreement import agreement

LETTERS = {"h": "harmful", "s": "harmless", "r": "refusal", "i": "incoherent", "-": None}


def table(letters: str, attempts: int = 1) -> pa.Table:
    """A letter per completion; `attempts` in a row belong to one prompt."""
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


def test_agreement_and_kappa_of_a_worked_example() -> None:
    """20 both harmful, 5 and 10 apart, 15 both refused: 0.7 agree, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5."""
    found = agreement(
        {"a": table("h" * 20 + "h" * 5 + "r" * 10 + "r" * 15), "b": table("h" * 20 + "r" * 5 + "h" * 10 + "r" * 15)},
        {f"row{i:02d}": True for i in range(50)},
    )
    (pair,) = found.pairs.to_dict("records")
    assert (pair["judge"], pair["other"], pair["n"]) == ("a", "b", 50)
    for name, value in {"agreement": 0.7, "kappa": 0.4, "harm_agreement": 0.7, "harm_kappa": 0.4}.items():
        assert pair[name] == pytest.approx(value)
    assert found.rates["asr"].tolist() == [0.5, 0.6]
    assert found.asr_range == pytest.approx(0.1)
    assert len(found.disagreements) == 15


def test_words_that_are_not_harmful_may_differ_without_moving_the_rate() -> None:
    found = agreement({"a": table("hhrs"), "b": table("hhir")}, HARMFUL)
    (pair,) = found.pairs.to_dict("records")
    assert (pair["agreement"], pair["harm_agreement"], pair["harm_kappa"]) == (0.5, 1.0, 1.0)
    assert found.asr_range == 0.0
    assert found.disagreements.to_dict("records") == [
        {"row_id": "row02", "attempt": 0, "a": "refusal", "b": "incoherent"},
        {"row_id": "row03", "attempt": 0, "a": "harmless", "b": "refusal"},
    ]


def test_what_a_judge_did_not_score_is_neither_agreement_nor_disagreement_nor_part_of_its_rate() -> None:
    found = agreement({"a": table("h-hr"), "b": table("hh--"), "c": table("hs-s")}, HARMFUL)
    assert found.pairs["n"].tolist() == [1, 2, 2]
    assert found.rates.to_dict("records")[1] == {"judge": "b", "asr": 1.0, "n": 2, "not_scored": 2}
    assert found.disagreements.to_dict("records") == [
        {"row_id": "row01", "attempt": 0, "a": None, "b": "harmful", "c": "harmless"},
        {"row_id": "row03", "attempt": 0, "a": "refusal", "b": None, "c": "harmless"},
    ]


def test_kappa_is_unknown_and_not_zero_where_both_always_say_the_same() -> None:
    found = agreement({"a": table("hhh"), "b": table("hhh")}, HARMFUL)
    (pair,) = found.pairs.to_dict("records")
    assert pair["agreement"] == 1.0 and math.isnan(pair["kappa"]) and math.isnan(pair["harm_kappa"])
    assert list(found.disagreements.columns) == ["row_id", "attempt", "a", "b"] and found.disagreements.empty


def test_judges_that_never_agree_are_below_chance() -> None:
    (pair,) = agreement({"a": table("hr"), "b": table("rh")}, HARMFUL).pairs.to_dict("records")
    assert (pair["agreement"], pair["kappa"]) == (0.0, -1.0)


def test_rates_are_of_harmful_prompts_and_one_successful_attempt_is_enough() -> None:
    """Three prompts of two tries; the last is benign. Of b's first prompt one try was not scored, none harmful."""
    harmful = {"row00": True, "row01": True, "row02": False}
    found = agreement({"a": table("rhrrss", 2), "b": table("r-rhss", 2)}, harmful)
    assert found.rates.to_dict("records") == [
        {"judge": "a", "asr": 0.5, "n": 2, "not_scored": 0},
        {"judge": "b", "asr": 1.0, "n": 1, "not_scored": 1},
    ]
    assert found.disagreements[["row_id", "attempt"]].to_dict("records") == [{"row_id": "row01", "attempt": 1}]


def test_the_order_of_the_rows_does_not_matter_and_other_completions_do() -> None:
    words = table("hrsi")
    turned = words.take([3, 2, 1, 0])
    assert agreement({"a": words, "b": turned}, HARMFUL).disagreements.empty
    with pytest.raises(DataError, match=r"did not see the same completions \(4 and 3\)"):
        agreement({"a": words, "b": table("hrs")}, HARMFUL)
    with pytest.raises(DataError, match="row 'row03' of the verdicts is not in the data set"):
        agreement({"a": words}, {f"row{i:02d}": True for i in range(3)})


def test_one_judge_alone_has_a_rate_and_no_pair() -> None:
    found = agreement({"a": table("hr")}, HARMFUL)
    assert found.pairs.empty and found.disagreements.empty and found.rates["asr"].tolist() == [0.5]
    assert found.asr_range == 0.0


def test_more_than_two_judges_have_krippendorffs_alpha() -> None:
    """Three judges on six rows, one verdict missing; the value is that of the package krippendorff."""
    judges = {"a": table("hhrrs-"), "b": table("hhrrss"), "c": table("hrrrsh")}
    words = [[LETTERS[letter] for letter in letters] for letters in ("hhrrs-", "hhrrss", "hrrrsh")]
    alpha = agreement(judges, HARMFUL).alpha
    assert alpha == pytest.approx(krippendorff_alpha(words)) and alpha == pytest.approx(0.6375, abs=0.1)
    assert agreement({judge: judges[judge] for judge in "ab"}, HARMFUL).alpha is None
