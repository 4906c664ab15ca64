"""The table claims."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from rebend.errors import ConfigError
from rebend.report.tables.claims import check_claims
from tests.helpers.study_tables import CLAIM


def test_claim_is_compared_with_a_number_or_another_row(tables: dict[str, pd.DataFrame]) -> None:
    higher = {**CLAIM, "at_least": 0.95}
    other_row = {
        **CLAIM, "text": "Control beats chance", "column": "ci_low",
        "where": {"adapter": "none", "control": "value", "against": "none", "metric": "reward_gain"},
        "at_least": {
            "compares": "control", "adapter": "none", "control": "random", "metric": "reward_gain", "take": "ci_high"
        },
    }  # fmt: skip
    checked = check_claims([CLAIM, higher, other_row], tables)
    assert list(checked["met"]) == [True, False, True]
    assert list(checked["threshold"]) == pytest.approx([0.9, 0.95, 0.2])
    assert list(checked["measured"]) == pytest.approx([1 - 2 / 34, 1 - 2 / 34, 1.0])
    assert list(checked["not_scored"]) == [1, 1, 1]
    most = {
        **CLAIM,
        "table": "matrix",
        "where": {"adapter": "repbend", "control": "none", "metric": "asr"},
        "at_least": None,
    }
    assert list(check_claims([{**most, "at_most": 0.1}, {**most, "at_most": 0.01}], tables)["met"]) == [True, False]


def test_claim_without_measurement_is_not_met(tables: dict[str, pd.DataFrame]) -> None:
    unknown = {**tables, "gains": tables["gains"].assign(estimate=None)}
    line = check_claims([CLAIM], unknown).iloc[0]
    assert not line["met"] and pd.isna(line["measured"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"where": {"compares": "adapter", "group": "unseen itm"}}, "Did you mean 'unseen item'"),
        ({"where": {"compare": "adapter"}}, "no column 'compare'.*Did you mean 'compares'"),
        ({"where": {"compares": "adapter"}}, "rows match"),
        ({"column": "estimat"}, "Did you mean 'estimate'"),
        ({"column": "metric"}, "holds text"),
        ({"at_least": {"compares": "adapter"}}, "to `take`"),
    ],
)
def test_claim_about_missing_row_or_column_raises_config_error(
    tables: dict[str, pd.DataFrame], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_claims([{**CLAIM, **change}], tables)
