"""StrongREJECT's forbidden prompts (arXiv:2402.10260)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text


def evaluation(row: Row) -> list[Row]:
    """Return a forbidden prompt (arXiv:2402.10260); the full file has 313 prompts."""
    return [evaluation_row(text(row, "forbidden_prompt"), True, category=optional_text(row, "category"))]


STRONGREJECT = Reader(
    "strongreject",
    "StrongREJECT: forbidden prompts",
    {"evaluation": evaluation},
    {"evaluation": ("forbidden_prompt", "category")},
)
