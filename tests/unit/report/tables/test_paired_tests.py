"""The table repbend_pairs: McNemar's test with Holm's correction."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from rebend.io.files import read_parquet, write_parquet
from rebend.report.tables.all import shown
from rebend.report.tables.paired_tests import holm, mcnemar
from tests.helpers.study_factory import evaluation_data, safety_cell
from tests.helpers.study_tables import make_tables, one_row


def test_mcnemar_equals_values_computed_by_hand() -> None:
    assert mcnemar(1, 8) == pytest.approx(2 * sum(comb(9, k) for k in (0, 1)) / 2**9)
    assert mcnemar(8, 1) == mcnemar(1, 8)
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0


def test_holm_equals_values_computed_by_hand() -> None:
    # smallest times 3, next times 2 and at least the previous one, largest times 1
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_pairs_are_counted_on_the_same_prompts(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path)
    cells = [
        safety_cell(tmp_path, data, "tiny", adapter, "none", harmful, attack)
        for adapter, harmful in (("none", 34), ("rmu", 10), ("repbend", 2))
        for attack in ("direct", "prefilling")
    ]
    verdicts = read_parquet(cells[-1]["scores"]["safety"])
    write_parquet(
        cells[-1]["scores"]["safety"], verdicts.take(list(range(len(verdicts)))[::-1])
    )  # row order does not matter
    pairs = make_tables(cells)["repbend_pairs"]
    compared = set(zip(pairs["adapter"], pairs["against"], strict=True))
    assert compared == {("rmu", "none"), ("repbend", "none"), ("repbend", "rmu")}
    line = one_row(pairs, adapter="repbend", against="rmu", outcome="harmful", attack="prefilling")
    assert (line["both"], line["neither"], line["only_adapter"], line["only_against"]) == (4, 58, 0, 16)
    assert (line["n"], line["not_scored"]) == (78, 2)
    assert line["p_value"] == pytest.approx(2 / 2**16) and line["p_value"] < line["p_holm"] < 0.01
    benign = one_row(pairs, adapter="repbend", against="rmu", outcome="answered", attack="direct")
    assert (benign["both"], benign["neither"], benign["p_value"]) == (72, 8, 1.0)
    assert shown("repbend_pairs", pairs)["p"].isin(["< 0.001", "1.000"]).all()


def test_data_set_of_one_adapter_only_has_no_pair(tmp_path: Path) -> None:
    first, second = evaluation_data(tmp_path), evaluation_data(tmp_path, "dan")
    cells = [safety_cell(tmp_path, data, "tiny", "none", "none", 34) for data in (first, second)]
    cells.append(safety_cell(tmp_path, first, "tiny", "repbend", "none", 2))
    pairs = make_tables(cells)["repbend_pairs"]
    harmful = pairs[pairs["outcome"] == "harmful"]
    assert list(harmful["dataset"]) == ["all", "harmbench"] and list(harmful["n"]) == [78, 78]


@pytest.mark.parametrize(("first", "second"), [(1, 8), (0, 5), (7, 7), (12, 3), (0, 1)])
def test_mcnemar_agrees_with_statsmodels(first: int, second: int) -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    theirs = contingency.mcnemar([[10, first], [second, 20]], exact=True)
    assert mcnemar(first, second) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_holm_agrees_with_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).uniform(0, 0.2, 25) ** 2
    assert holm(p_values.tolist()) == pytest.approx(multitest.multipletests(p_values, method="holm")[1], rel=1e-12)
