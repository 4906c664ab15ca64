"""Refusals from a file, dealt out as safe answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from rebend.config.datasets import REFUSAL_COLUMN as COLUMN
from rebend.data.readers.raw import read_rows
from rebend.errors import DataError, likely_typo


def read_refusals(path: str | Path) -> list[str]:
    """Return the different refusals in the column `refusal` of a table.

    Raises `DataError` with file and line if the column is missing or a cell is no text, and if there is no refusal.
    """
    refusals: dict[str, None] = {}
    for source_row in read_rows(Path(path)):
        if COLUMN not in source_row.row:
            found = ", ".join(map(str, source_row.row))
            typo = likely_typo(COLUMN, source_row.row)
            raise DataError(f"{source_row.place}: column '{COLUMN}' is missing. Found: {found}.{typo}")
        value = source_row.row[COLUMN]
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{source_row.place}: '{COLUMN}' is {value!r:.60}; a refusal is expected")
        refusals[value.strip()] = None
    if not refusals:
        raise DataError(f"{path}: holds no refusals")
    return list(refusals)


def dealt(refusals: Sequence[str], seed: int) -> Iterator[str]:
    """Yield refusals without end: all of them in a random order, then all again in another order."""
    for epoch in range(2**31):
        yield from random.Random(f"{seed} {epoch}").sample(list(refusals), len(refusals))
