"""The table claims: each claim of a study, checked against its tables; a claim is met or not met, never left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.errors import ConfigError, likely_typo
from rebend.report.formatting import number, number_of
from rebend.report.lines import records
from rebend.report.tables.table import Inputs, Table

COLUMNS = ["text", "table", "row", "column", "measured", "bound", "threshold", "met", "n", "not_scored"]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a line per claim; needs the tables that the claims name."""
    return check_claims(inputs.claims, inputs.tables)


def check_claims(claims: Sequence[Mapping[str, Any]], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a line per claim. A claim whose number or threshold could not be measured is not met.

    Raises `ConfigError` for a claim about a row or column that its table does not have.
    """
    return pd.DataFrame([_checked(claim, tables[claim["table"]]) for claim in claims], columns=COLUMNS)


def _checked(claim: Mapping[str, Any], table: pd.DataFrame) -> list[Any]:
    about = f"claim '{claim['text']}', table '{claim['table']}'"
    row = pick(table, claim["where"], about)
    measured = _number(row, claim["column"], about)
    bound = "at_least" if claim.get("at_least") is not None else "at_most"
    wanted = claim[bound]
    if isinstance(wanted, Mapping):
        where = {name: value for name, value in wanted.items() if name != "take"}
        if "take" not in wanted:
            raise ConfigError(f"{about}: `{bound}` names a row but not the column to `take` from it")
        threshold = _number(pick(table, where, about), wanted["take"], about)
    else:
        threshold = float(wanted)
    known = measured is not None and threshold is not None
    met = known and (measured >= threshold if bound == "at_least" else measured <= threshold)  # type: ignore[operator]
    where_text = ", ".join(f"{name}={value}" for name, value in claim["where"].items())
    counts = [_count(row, claim["column"], name) for name in ("n", "not_scored")]
    return [claim["text"], claim["table"], where_text, claim["column"], measured, bound, threshold, met, *counts]


def pick(table: pd.DataFrame, where: Mapping[str, Any], about: str) -> pd.Series:
    """Return the one row whose columns have these values."""
    chosen = table
    for column, value in where.items():
        if column not in table.columns:
            raise ConfigError(f"{about}: no column '{column}'.{likely_typo(column, table.columns)}")
        fitting = chosen[chosen[column].astype(str) == str(value)]
        if fitting.empty:
            allowed = sorted(set(chosen[column].astype(str)))
            raise ConfigError(
                f"{about}: no row with {column}='{value}'; there are {allowed}.{likely_typo(value, allowed)}"
            )
        chosen = fitting
    if len(chosen) != 1:
        raise ConfigError(f"{about}: {len(chosen)} rows fit {dict(where)}; name more columns so that one does")
    return chosen.iloc[0]


def _number(row: pd.Series, column: str, about: str) -> float | None:
    if column not in row.index:
        raise ConfigError(f"{about}: no column '{column}'.{likely_typo(column, row.index)}")
    value = row[column]
    if isinstance(value, str):
        raise ConfigError(f"{about}: column '{column}' holds text ('{value}'), not a number")
    return None if pd.isna(value) else float(value)


def _count(row: pd.Series, column: str, name: str) -> int | None:
    """Return the count that belongs to a column: the metric's own (`reward_n`), else the line's."""
    own = f"{column.removesuffix('_low').removesuffix('_high')}_{name}"
    value = row.get(own, row.get(name))
    return None if value is None or pd.isna(value) else int(value)


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    signs = {"at_least": "≥", "at_most": "≤"}
    return pd.DataFrame(
        {
            "claim": row["text"],
            "measured": number(row["measured"]) or "not scored",
            "wanted": f"{signs[row['bound']]} {number(row['threshold']) or 'not scored'}",
            "met": "met" if row["met"] else "not met",
            "where": f"{row['table']}: {row['row']}, {row['column']}",
            "n": number_of(row["n"]),
            "not scored": number_of(row["not_scored"]),
        }
        for row in records(table)
    )


TABLE = Table("claims", "", "A claim that could not be measured is not met.", compute, text)
