"""The noise floor counts and measures differences between two runs, in every column of numbers."""

from __future__ import annotations

import pandas as pd
import pytest
from bench.noise_floor import differences, summary

from rebend.errors import DataError


def tables(**changed: list[object]) -> dict[str, pd.DataFrame]:
    columns = {"model": ["a", "b", "c"], "reward": [0.5, -1.0, None], "n": [8, 8, 0], "met": [True, False, True]}
    return {"matrix": pd.DataFrame({**columns, "seconds_per_1000_tokens": [1.0, 2.0, 3.0], **changed})}


def test_equal_runs_have_no_differences() -> None:
    table = differences(tables(), tables())
    assert list(table["column"]) == ["reward", "n", "seconds_per_1000_tokens"]
    assert list(table["cells"]) == [2, 3, 3]
    assert (table[["differ", "largest"]] == 0).all(axis=None)
    assert summary(table) == "Two runs with the same settings agree in all 5 numbers that are not times."


def test_differences_are_counted_and_measured_without_times_in_the_summary() -> None:
    table = differences(tables(), tables(reward=[0.25, -1.0, None], seconds_per_1000_tokens=[9.0, 2.0, 3.0]))
    assert table[["column", "differ", "largest"]].values.tolist() == [
        ["reward", 1, 0.25],
        ["n", 0, 0.0],
        ["seconds_per_1000_tokens", 1, 8.0],
    ]
    assert "differ in 1 of 5 numbers" in summary(table)


def test_number_in_only_one_run_counts_as_a_difference() -> None:
    table = differences(tables(), tables(reward=[0.5, -1.0, 2.0])).set_index("column")
    assert tuple(table.loc["reward", ["cells", "differ"]]) == (3, 1)
    assert differences(tables(reward=[0.5, -1.0, 2.0]), tables())["differ"].tolist() == [1, 0, 0]


def test_rows_are_matched_in_any_order_and_missing_rows_differ() -> None:
    reversed_rows = {"matrix": tables()["matrix"].iloc[::-1].reset_index(drop=True)}
    assert differences(tables(), reversed_rows)["differ"].tolist() == [0, 0, 0]
    fewer = {"matrix": tables()["matrix"].iloc[1:]}
    assert differences(tables(), fewer)["differ"].tolist() == [1, 1, 1]
    assert differences(fewer, tables())["differ"].tolist() == [1, 1, 1]


def test_empty_columns_and_empty_tables_are_compared() -> None:
    assert differences(tables(), tables(reward=[None] * 3))["differ"].tolist() == [2, 0, 0]
    empty = {"matrix": tables()["matrix"].iloc[:0]}
    assert differences(empty, empty)["cells"].tolist() == [0, 0, 0]


def test_tables_with_other_columns_are_refused() -> None:
    with pytest.raises(DataError, match="table 'matrix': the two runs have different columns"):
        differences(tables(), {"matrix": tables()["matrix"].drop(columns="n")})
