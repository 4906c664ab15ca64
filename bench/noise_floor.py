"""What two runs with the same settings differ in: the noise floor of a study's tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from rebend.errors import DataError

_AGAIN, _PLACE = " again", " place"
TIMES = ("seconds_per_1000_tokens", "relative_time", "hours")  # measured by the clock: never the same


def differences(first: Mapping[str, pd.DataFrame], second: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a line for each column of numbers in the tables of two runs.

    Rows belong together if their words are the same, in whatever order they stand. `cells` counts rows with a number
    in either run, `differ` those whose numbers are not the same (one that is missing in one run differs), `largest` is
    the largest absolute difference, in the unit of the column, and `time` says that the column was measured by the
    clock. Raises `DataError` if the tables have other columns.
    """
    lines = []
    for name, table in first.items():
        if list(table) != list(second[name]):
            raise DataError(f"table '{name}': the two runs have other columns; they are not of one study")
        numbers = [str(c) for c in table if _is_number(table[c]) or _is_number(second[name][c])]
        both = _side_by_side(table, second[name], numbers)
        for column in numbers:
            ours, theirs = both[column].astype(float), both[f"{column}{_AGAIN}"].astype(float)
            there = ours.notna() | theirs.notna()
            apart = (ours - theirs).abs()
            lines.append(
                {
                    "table": name,
                    "column": column,
                    "cells": int(there.sum()),
                    "differ": int((there & ~ours.eq(theirs)).sum()),
                    "largest": float(apart.max()) if apart.notna().any() else 0.0,
                    "time": column in TIMES,
                }
            )
    return pd.DataFrame(lines, columns=["table", "column", "cells", "differ", "largest", "time"])


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _side_by_side(ours: pd.DataFrame, theirs: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """Join rows with the same words; rows that are alike in words, in their order."""
    both = [ours, theirs]
    truths = [column for column in ours if any(pd.api.types.is_bool_dtype(table[column]) for table in both)]
    words = [str(column) for column in ours if column not in (*numbers, *truths)]
    keyed = []
    for table in both:
        keys = table[words].fillna("").astype(str)
        place = keys.groupby(words).cumcount() if words else pd.Series(range(len(table)), index=table.index)
        keyed.append(pd.concat([table[numbers], keys, place.rename(_PLACE)], axis=1))
    return keyed[0].merge(keyed[1], how="outer", on=[*words, _PLACE], suffixes=("", _AGAIN))


def summary(found: pd.DataFrame) -> str:
    """Say in one sentence what a reader needs to know."""
    numbers = found[~found["time"]]
    differ = numbers[numbers["differ"] > 0]
    if differ.empty:
        return f"Two runs with the same settings agree in all {int(numbers['cells'].sum())} numbers that are not times."
    return (
        f"Two runs with the same settings differ in {int(differ['differ'].sum())} of {int(numbers['cells'].sum())} "
        "numbers that are not times. Between two settings, a difference of that size means nothing."
    )
