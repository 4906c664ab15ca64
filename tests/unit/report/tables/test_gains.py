"""The table gains."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rebend.io.files import write_parquet
from rebend.io.scores import score_table
from tests.helpers.study_factory import (
    prompts_cell,
    prompts_data,
)
from tests.helpers.study_tables import make_tables, one_row


def test_gain_is_the_mean_difference_on_the_same_prompts(tables: dict[str, pd.DataFrame]) -> None:
    gains = tables["gains"]
    gain = one_row(gains, adapter="none", control="value", against="none", metric="reward_gain")
    assert gain["estimate"] == pytest.approx(1.0) and gain["ci_low"] == pytest.approx(1.0)  # every row gains 1
    assert (gain["n"], gain["not_scored"]) == (39, 1)
    assert one_row(gains, adapter="none", control="value", against="random", metric="reward_gain")[
        "estimate"
    ] == pytest.approx(0.8)
    ratio = one_row(gains, adapter="none", control="value", against="none", metric="diversity_ratio")
    assert ratio["estimate"] == pytest.approx(0.75 / 0.8)
    assert gains[(gains["control"] == "random") & (gains["against"] == "value")].empty


def test_asr_reduction_is_relative_to_the_base(tables: dict[str, pd.DataFrame]) -> None:
    for attack in ("direct", "prefilling"):
        line = one_row(
            tables["gains"], compares="adapter", adapter="repbend", control="none", group="unseen item", attack=attack
        )
        assert line["estimate"] == pytest.approx(1 - 2 / 34) and line["ci_low"] < 1 - 2 / 34 < line["ci_high"]
        assert (line["value"], line["baseline"]) == (2 / 39, 34 / 39)
    assert (tables["gains"][tables["gains"]["compares"] == "adapter"]["adapter"] == "repbend").all()


def test_gain_does_not_depend_on_the_row_order_of_score_files(tmp_path: Path) -> None:
    data = prompts_data(tmp_path)
    base, other = (prompts_cell(tmp_path, data, "tiny", "none", c, s) for c, s in (("none", 0.0), ("value", 1.0)))
    ids = [f"p{i}" for i in range(40)][::-1]
    write_parquet(other["scores"]["reward"], score_table(ids, [int(r[1:]) / 10 + 1.0 for r in ids]))
    table = make_tables([base, other])["gains"]
    line = one_row(table, metric="reward_gain")
    assert line["estimate"] == pytest.approx(1.0) and line["ci_high"] == pytest.approx(1.0)
