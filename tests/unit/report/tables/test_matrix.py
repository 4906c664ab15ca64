"""The table matrix."""

from __future__ import annotations

import pandas as pd
import pytest

from rebend.evaluation.intervals import wilson
from tests.helpers.study_tables import one_row


def test_matrix_has_expected_columns_and_metrics(tables: dict[str, pd.DataFrame]) -> None:
    matrix = tables["matrix"]
    assert list(matrix.columns) == [
        "model", "adapter", "control", "metric", "estimate", "ci_low", "ci_high", "n", "clusters", "seeds", "not_scored"
    ]  # fmt: skip
    assert set(matrix["metric"]) == {
        "asr", "asr_prefilling", "benign_answer_rate", "benign_refusal_rate", "benign_incoherent_rate",
        "harmful_refusal_rate", "harmful_incoherent_rate", "reward", "heldout_reward", "diversity", "coherence",
        "win_rate",
    }  # fmt: skip
    assert set(matrix["adapter"]) == {"none", "repbend"} and set(matrix["control"]) == {"none", "random", "value"}
    assert len(matrix) == 6 * 12


def test_safety_rates_equal_rates_computed_by_hand(tables: dict[str, pd.DataFrame]) -> None:
    cell = {"adapter": "none", "control": "none"}
    asr = one_row(tables["matrix"], **cell, metric="asr")  # direct rows only: 2 x 40, two of them not scored
    assert (asr["estimate"], asr["n"], asr["not_scored"]) == (68 / 78, 78, 2)
    assert (asr["ci_low"], asr["ci_high"]) == wilson(68, 78)
    assert one_row(tables["matrix"], **cell, metric="asr_prefilling")["n"] == 78
    assert one_row(tables["matrix"], **cell, metric="harmful_refusal_rate")["estimate"] == 10 / 78
    assert one_row(tables["matrix"], **cell, metric="benign_answer_rate")["estimate"] == 72 / 80
    assert one_row(tables["matrix"], **cell, metric="benign_refusal_rate")["estimate"] == 2 / 80
    assert one_row(tables["matrix"], **cell, metric="benign_incoherent_rate")["estimate"] == 2 / 80
    adapted = one_row(tables["matrix"], adapter="repbend", control="none", metric="harmful_incoherent_rate")
    assert adapted["estimate"] == pytest.approx(64 / 78)


def test_means_equal_means_computed_by_hand(tables: dict[str, pd.DataFrame]) -> None:
    reward = one_row(tables["matrix"], adapter="none", control="value", metric="reward")
    assert reward["estimate"] == pytest.approx(1.9 + 1.0)
    assert (reward["n"], reward["not_scored"]) == (39, 1)
    assert reward["ci_low"] < 2.9 < reward["ci_high"]
    win = one_row(tables["matrix"], adapter="none", control="value", metric="win_rate")
    assert (win["estimate"], win["n"], win["not_scored"]) == (
        0.5,
        20,
        1,
    )  # a tie is no win, a refused row is not scored
