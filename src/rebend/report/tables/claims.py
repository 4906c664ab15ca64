"""The table claims: each claim of a study, checked against its tables."""

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
    """Return a row per claim. Needs the tables that the claims name."""
    return check_claims(inputs.claims, inputs.tables)


def check_claims(claims: Sequence[Mapping[str, Any]], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per claim. A claim with an unknown number or threshold is not met.

    Raises `ConfigError` if a table lacks the row or column of a claim.
    """
    return pd.DataFrame([_checked(claim, tables[claim["table"]]) for claim in claims], columns=COLUMNS)


def _checked(claim: Mapping[str, Any], table: pd.DataFrame) -> list[Any]:
    about = f"claim '{claim['text']}', table '{claim['table']}'"
    row = pick(table, claim["where"], about)
    measured = _number(row, claim["column"], about)
    bound = "at_least" if claim.get("at_least") is not None else "at_most"
    limit = claim[bound]
    if isinstance(limit, Mapping):
        where = {name: value for name, value in limit.items() if name != "take"}
        if "take" not in limit:
            raise ConfigError(f"{about}: `{bound}` names a row but not the column to `take` from it")
        threshold = _number(pick(table, where, about), limit["take"], about)
    else:
        threshold = float(limit)
    known = measured is not None and threshold is not None
    met = known and (measured >= threshold if bound == "at_least" else measured <= threshold)  # type: ignore[operator]
    where_text = ", ".join(f"{name}={value}" for name, value in claim["where"].items())
    counts = [_count(row, claim["column"], name) for name in ("n", "not_scored")]
    return [claim["text"], claim["table"], where_text, claim["column"], measured, bound, threshold, met, *counts]


def pick(table: pd.DataFrame, where: Mapping[str, Any], about: str) -> pd.Series:
    """Return the row with these values. Raises `ConfigError` if there is no such row, or more than one."""
    chosen = table
    for column, value in where.items():
        if column not in table.columns:
            raise ConfigError(f"{about}: no column '{column}'.{likely_typo(column, table.columns)}")
        texts = chosen[column].astype(str)  # "*" marks settings that are not the paper's, not another block
        matching = chosen[(texts == str(value)) | (texts == f"{value}*")]
        if matching.empty:
            allowed = sorted(set(chosen[column].astype(str)))
            raise ConfigError(
                f"{about}: no row with {column}='{value}'. Values: {allowed}.{likely_typo(value, allowed)}"
            )
        chosen = matching
    if len(chosen) != 1:
        raise ConfigError(
            f"{about}: {len(chosen)} rows match {dict(where)}; name more columns, so that one row matches"
        )
    return chosen.iloc[0]


def _number(row: pd.Series, column: str, about: str) -> float | None:
    if column not in row.index:
        raise ConfigError(f"{about}: no column '{column}'.{likely_typo(column, row.index)}")
    value = row[column]
    if isinstance(value, str):
        raise ConfigError(f"{about}: column '{column}' holds text ('{value}'), not a number")
    return None if pd.isna(value) else float(value)


def _count(row: pd.Series, column: str, name: str) -> int | None:
    """Return the count of a column: that of its metric (`reward_n`) or else that of the whole row (`n`)."""
    metric_count = f"{column.removesuffix('_low').removesuffix('_high')}_{name}"
    value = row.get(metric_count, row.get(name))
    return None if value is None or pd.isna(value) else int(value)


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    signs = {"at_least": "≥", "at_most": "≤"}
    return pd.DataFrame(
        {
            "claim": row["text"],
            "measured": number(row["measured"]) or "not scored",
            "required": f"{signs[row['bound']]} {number(row['threshold']) or 'not scored'}",
            "met": "met" if row["met"] else "not met",
            "where": f"{row['table']}: {row['row']}, {row['column']}",
            "n": number_of(row["n"]),
            "not scored": number_of(row["not_scored"]),
        }
        for row in records(table)
    )


TABLE = Table("claims", "", "A claim without a measurement is not met.", compute, text)
