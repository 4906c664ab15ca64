"""The noise floor counts what differs between two runs, in every column of numbers."""

from __future__ import annotations

import pandas as pd
import pytest
from bench.noise_floor import differences, summary

from rebend.errors import DataError


def tables(**changed: list[object]) -> dict[str, pd.DataFrame]:
    columns = {"model": ["a", "b", "c"], "reward": [0.5, -1.0, None], "n": [8, 8, 0], "met": [True, False, True]}
    return {"matrix": pd.DataFrame({**columns, "seconds_per_1000_tokens": [1.0, 2.0, 3.0], **changed})}


def test_two_equal_runs_have_no_noise() -> None:
    found = differences(tables(), tables())
    assert list(found["column"]) == ["reward", "n", "seconds_per_1000_tokens"]
    assert list(found["cells"]) == [2, 3, 3]
    assert (found[["differ", "largest"]] == 0).all(axis=None)
    assert summary(found) == "Two runs with the same settings agree in all 5 numbers that are not times."


def test_differences_are_counted_and_measured_and_times_kept_apart() -> None:
    found = differences(tables(), tables(reward=[0.25, -1.0, None], seconds_per_1000_tokens=[9.0, 2.0, 3.0]))
    assert found[["column", "differ", "largest"]].values.tolist() == [
        ["reward", 1, 0.25],
        ["n", 0, 0.0],
        ["seconds_per_1000_tokens", 1, 8.0],
    ]
    assert "differ in 1 of 5 numbers" in summary(found)


def test_a_number_that_only_one_run_has_differs() -> None:
    found = differences(tables(), tables(reward=[0.5, -1.0, 2.0])).set_index("column")
    assert tuple(found.loc["reward", ["cells", "differ"]]) == (3, 1)
    assert differences(tables(reward=[0.5, -1.0, 2.0]), tables())["differ"].tolist() == [1, 0, 0]


def test_rows_in_another_order_belong_together_and_lost_ones_differ() -> None:
    turned = {"matrix": tables()["matrix"].iloc[::-1].reset_index(drop=True)}
    assert differences(tables(), turned)["differ"].tolist() == [0, 0, 0]
    fewer = {"matrix": tables()["matrix"].iloc[1:]}
    assert differences(tables(), fewer)["differ"].tolist() == [1, 1, 1]
    assert differences(fewer, tables())["differ"].tolist() == [1, 1, 1]


def test_a_column_that_is_empty_in_one_run_and_a_table_without_rows() -> None:
    assert differences(tables(), tables(reward=[None] * 3))["differ"].tolist() == [2, 0, 0]
    empty = {"matrix": tables()["matrix"].iloc[:0]}
    assert differences(empty, empty)["cells"].tolist() == [0, 0, 0]


def test_tables_of_another_study_are_refused() -> None:
    with pytest.raises(DataError, match="table 'matrix': the two runs have different columns"):
        differences(tables(), {"matrix": tables()["matrix"].drop(columns="n")})
