"""The type of a reader: the facts of one source format, and its functions from a source row to rows of a kind.

Nothing here imports more than the standard library: readers are loaded while Snakemake parses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rebend.data.readers.raw import Placed
from rebend.data.readers.rows import Source
from rebend.errors import DataError, likely_typo


@dataclass(frozen=True)
class Reader:
    """One format: the columns that each kind needs (`a|b`: one of the two), and the function of each kind.

    A function takes a dict of the source's columns and returns rows without `row_id`.
    """

    name: str
    about: str
    functions: Mapping[str, Callable[[Source], list[Source]]]  # by kind
    columns: Mapping[str, tuple[str, ...]]  # by kind
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: tuple[str, ...] = ()  # columns of the block's second source, for formats that have one
    key: str = ""  # column by which a row of the second source is found; "": line n answers line n
    entries: tuple[str, str] | None = None  # the source is a JSON object: columns of an entry's name and value
    reference_entries: tuple[str, str] | None = None  # likewise the second source
    generate: Callable[[str, int, int], list[dict[str, Any]]] | None = None  # rows from (part, rows, seed)
    parts: Mapping[str, str] = field(default_factory=dict)  # kind of each part that is generated

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of data set that this format can give."""
        return tuple(self.columns)

    @property
    def second_columns(self) -> tuple[str, ...]:
        """The columns that the second source needs: its key, if it has one, and the columns that are read from it."""
        return (self.key, *self.reference) if self.key else self.reference

    def convert(self, kind: str, placed: Placed) -> list[Source]:
        """Turn one source row into rows of `kind`.

        Raises `UnusableRowError` for a row that is left out and counted, and `DataError` with file and line if a
        column is missing or the row breaks its format.
        """
        if gone := missing_columns(self.columns[kind], placed.row):
            raise DataError(f"{placed.place}: {columns_sentence(self.name, kind, gone, placed.row)}")
        try:
            return self.functions[kind](placed.row)
        except ValueError as error:
            raise DataError(f"{placed.place}: {error}") from error


def missing_columns(needed: Iterable[str], there: Iterable[str]) -> list[str]:
    """Return the needed columns that are not `there`; of `a|b` one is enough."""
    present = set(there)
    return [column for column in needed if not present & set(column.split("|"))]


def columns_sentence(reader: str, kind: str, gone: list[str], there: Iterable[str]) -> str:
    """Say which columns are missing, the columns that are there, and the likely name of a missing one."""
    found = [str(name) for name in there]
    typo = next((hint for name in gone if (hint := likely_typo(name, found))), "")
    names = ", ".join("'" + name.replace("|", "' or '") + "'" for name in gone)
    return (
        f"column {names} is missing; reader '{reader}' needs it for kind '{kind}'. "
        f"Found: {', '.join(found) or 'none'}.{typo}"
    )
