"""The table repbend_summary."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.helpers.repbend_paper import (
    TOTAL,
)
from tests.helpers.study_tables import one_row


def test_summary_is_computed_from_asr_compliance_and_capability(paper_tables: dict[str, pd.DataFrame]) -> None:
    line = one_row(paper_tables["repbend_summary"], adapter="repbend_mistral")
    assert line["asr"] == one_row(paper_tables["repbend_asr"], adapter="repbend_mistral", benchmark=TOTAL)["asr"]
    assert line["xstest"] == line["wildjailbreak_benign"] == line["benign_answered"] == 0.9
    assert line["capability"] == pytest.approx((0.75 + 0.5) / 2) and line["capability_benchmarks"] == 2
    assert line["overall"] == pytest.approx(((1 - line["asr"]) + 0.9 + 0.625) / 3)
    assert (line["printed_xstest"], line["printed_wildjailbreak_benign"]) == (0.8489, 0.936)
    assert line["paper_overall"] == 0.8123
    assert line["printed_capability"] == pytest.approx((0.5948 + 0.7833) / 2)  # MMLU and TruthfulQA alone
    assert line["printed_asr"] == pytest.approx(line["paper_asr"], abs=1e-4)  # all eight benchmarks were measured
    parts = (1 - line["printed_asr"], (0.8489 + 0.936) / 2, line["printed_capability"])
    assert line["printed_overall"] == pytest.approx(sum(parts) / 3)
