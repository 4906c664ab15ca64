"""The table repbend_capability."""

from __future__ import annotations

import pandas as pd
import pytest

from rebend.evaluation.intervals import wilson
from tests.helpers.study_tables import one_row


def test_rows_have_score_interval_and_unscored_count(paper_tables: dict[str, pd.DataFrame]) -> None:
    line = one_row(paper_tables["repbend_capability"], adapter="none", benchmark="mmlu")
    assert (line["score"], line["score_n"], line["score_not_scored"]) == (0.75, 4, 1)
    assert (line["score_low"], line["score_high"]) == wilson(3, 4)
    assert line["printed_score"] == pytest.approx(0.6018)
    half = one_row(paper_tables["repbend_capability"], adapter="none", benchmark="truthfulqa")
    assert half["score"] == 0.5 and half["score_low"] < 0.5 < half["score_high"]


def test_distance_from_chance_is_empty_for_rows_without_chance(
    paper_tables: dict[str, pd.DataFrame],
) -> None:
    line = one_row(paper_tables["repbend_capability"], adapter="none", benchmark="mmlu")
    assert line["above_chance"] == pytest.approx(0.75 - 0.25)
    assert line["above_chance_low"] < 0.5 < line["above_chance_high"]
    assert pd.isna(one_row(paper_tables["repbend_capability"], adapter="none", benchmark="truthfulqa")["above_chance"])
