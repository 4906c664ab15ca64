"""A table of prompts, for a user's own data."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Row,
    UnusableRowError,
    evaluation_row,
    is_missing,
    optional_text,
    prompt_row,
    text,
    text_or_none,
    user_turn,
    written_form,
)

_TRUE = ("true", "1", "yes", "harmful", "unsafe")
_FALSE = ("false", "0", "no", "unharmful", "harmless", "safe")


def _harmful(row: Row) -> bool:
    value = written_form(row["harmful"]).strip().lower()
    if is_missing(row["harmful"]) or not value:
        raise UnusableRowError("no harmful")
    if value not in _TRUE + _FALSE:
        raise ValueError(f"'harmful' is {value[:60]!r}. Allowed: {', '.join(_TRUE)}; {', '.join(_FALSE)}")
    return value in _TRUE


def prompts(row: Row) -> list[Row]:
    """Return a prompt, with the optional columns of the table."""
    reference, cluster = text_or_none(row, "reference"), text_or_none(row, "cluster")
    return [prompt_row(user_turn(text(row, "prompt")), reference, optional_text(row, "group"), cluster)]


def evaluation(row: Row) -> list[Row]:
    """Return a prompt and whether it is harmful, with the optional columns of the table."""
    return [
        evaluation_row(
            text(row, "prompt"),
            _harmful(row),
            group=optional_text(row, "group"),
            category=optional_text(row, "category"),
            target=optional_text(row, "target"),
            reference=text_or_none(row, "reference"),
            request=text_or_none(row, "request"),
            cluster=text_or_none(row, "cluster"),
        )
    ]


TABLE = Reader(
    "table",
    "any table of prompts",
    {"prompts": prompts, "evaluation": evaluation},
    {"prompts": ("prompt",), "evaluation": ("prompt", "harmful")},
    optional={
        "prompts": ("reference", "group", "cluster"),
        "evaluation": ("reference", "group", "category", "target", "request", "cluster"),
    },
)
