"""The type of a reader: the columns of one source format, and its functions from a source row to rows of each kind.

This module imports only the standard library, because Snakemake loads readers while it parses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rebend.data.readers.raw import SourceRow
from rebend.data.readers.rows import Row
from rebend.errors import DataError, likely_typo


@dataclass(frozen=True)
class Reader:
    """One source format: the columns that each kind needs (`a|b`: one of the two), and the function of each kind.

    A function takes a row of the source, by column, and returns rows without `row_id`.
    """

    name: str
    about: str
    functions: Mapping[str, Callable[[Row], list[Row]]]  # by kind
    columns: Mapping[str, tuple[str, ...]]  # by kind
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: tuple[str, ...] = ()  # columns read from the second source, in formats that have one
    key: str = ""  # column that joins the two sources; "": line n of one belongs to line n of the other
    entries: tuple[str, str] | None = None  # for a source that is one JSON object: columns of an entry's name and value
    reference_entries: tuple[str, str] | None = None  # the same for the second source
    generate: Callable[[str, int, int], list[dict[str, Any]]] | None = None  # rows from (part, rows, seed)
    parts: Mapping[str, str] = field(default_factory=dict)  # kind of each generated part
    # (row, the user's word) to prompts as the released code of a paper writes them, in formats that have such a form
    released_prompts: Callable[[Row, str], list[Row]] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of data set that this format supports."""
        return tuple(self.columns)

    @property
    def second_columns(self) -> tuple[str, ...]:
        """The columns that the second source needs: the key, if there is one, and the columns read from it."""
        return (self.key, *self.reference) if self.key else self.reference

    def convert(self, kind: str, source_row: SourceRow, released_word: str | None = None) -> list[Row]:
        """Return the rows of `kind` that one source row gives.

        With `released_word`, the user's word, they are prompts as the released code writes them.
        Raises `UnusableRowError` for a row to leave out and count, and `DataError` with file and line if a column is
        missing or the row violates its format.
        """
        if missing := missing_columns(self.columns[kind], source_row.row):
            raise DataError(f"{source_row.place}: {columns_sentence(self.name, kind, missing, source_row.row)}")
        try:
            if released_word is not None:
                assert self.released_prompts is not None  # `reader_mistakes` refuses other readers
                return self.released_prompts(source_row.row, released_word)
            return self.functions[kind](source_row.row)
        except ValueError as error:
            raise DataError(f"{source_row.place}: {error}") from error


def missing_columns(needed: Iterable[str], columns: Iterable[str]) -> list[str]:
    """Return the needed columns that are not in `columns`; of `a|b` one is enough."""
    present = set(columns)
    return [column for column in needed if not present & set(column.split("|"))]


def columns_sentence(reader: str, kind: str, missing: list[str], columns: Iterable[str]) -> str:
    """Return a message that names the missing columns, the present ones, and a likely typo."""
    present = [str(name) for name in columns]
    typo = next((hint for name in missing if (hint := likely_typo(name, present))), "")
    names = ", ".join("'" + name.replace("|", "' or '") + "'" for name in missing)
    return (
        f"column {names} is missing; reader '{reader}' needs it for kind '{kind}'. "
        f"Found: {', '.join(present) or 'none'}.{typo}"
    )
