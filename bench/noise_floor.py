"""Differences of two runs with the same settings: the noise floor of a study's tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from rebend.errors import DataError

_AGAIN, _NUMBER = " again", " number"
TIMES = (  # measured times differ in every run
    "seconds_per_1000_tokens", "seconds_per_1000_tokens_low", "seconds_per_1000_tokens_high", "relative_time", "hours",
)  # fmt: skip


def differences(first: Mapping[str, pd.DataFrame], second: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row for each numeric column in the tables of two runs.

    Rows of the two runs are matched by their text columns, in any order. `cells` counts rows with a number in either
    run, `differ` rows whose numbers differ (also if one is missing), `largest` is the largest absolute difference in
    the unit of the column, and `time` is true for measured times. Raises `DataError` if the tables have different
    columns.
    """
    lines = []
    for name, table in first.items():
        if list(table) != list(second[name]):
            raise DataError(f"table '{name}': the two runs have different columns, so they are of different studies")
        numbers = [str(c) for c in table if _is_number(table[c]) or _is_number(second[name][c])]
        both = _side_by_side(table, second[name], numbers)
        for column in numbers:
            ours, theirs = both[column].astype(float), both[f"{column}{_AGAIN}"].astype(float)
            present = ours.notna() | theirs.notna()
            distances = (ours - theirs).abs()
            lines.append(
                {
                    "table": name,
                    "column": column,
                    "cells": int(present.sum()),
                    "differ": int((present & ~ours.eq(theirs)).sum()),
                    "largest": float(distances.max()) if distances.notna().any() else 0.0,
                    "time": column in TIMES,
                }
            )
    return pd.DataFrame(lines, columns=["table", "column", "cells", "differ", "largest", "time"])


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _side_by_side(ours: pd.DataFrame, theirs: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """Join rows with the same text columns; several rows with the same text are matched in their order."""
    both = [ours, theirs]
    flags = [column for column in ours if any(pd.api.types.is_bool_dtype(table[column]) for table in both)]
    text_columns = [str(column) for column in ours if column not in (*numbers, *flags)]
    keyed = []
    for table in both:
        keys = table[text_columns].fillna("").astype(str)
        number = (
            keys.groupby(text_columns).cumcount() if text_columns else pd.Series(range(len(table)), index=table.index)
        )
        keyed.append(pd.concat([table[numbers], keys, number.rename(_NUMBER)], axis=1))
    return keyed[0].merge(keyed[1], how="outer", on=[*text_columns, _NUMBER], suffixes=("", _AGAIN))


def summary(table: pd.DataFrame) -> str:
    """Return the result in one sentence."""
    numbers = table[~table["time"]]
    differ = numbers[numbers["differ"] > 0]
    if differ.empty:
        return f"Two runs with the same settings agree in all {int(numbers['cells'].sum())} numbers that are not times."
    return (
        f"Two runs with the same settings differ in {int(differ['differ'].sum())} of {int(numbers['cells'].sum())} "
        "numbers that are not times. A difference of that size between two settings is noise."
    )
