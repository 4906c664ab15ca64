"""SimpleSafetyTests: short, plainly harmful prompts (arXiv:2311.08370)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text


def evaluation(row: Row) -> list[Row]:
    """Return a harmful prompt; its category is the harm area, e.g. "Scams and fraud".

    The file's own column `category` says whether the prompt asks for information or for an action.
    """
    return [evaluation_row(text(row, "prompts_final"), True, category=optional_text(row, "harm_area"))]


SIMPLE_SAFETY_TESTS = Reader(
    "simple_safety_tests",
    "SimpleSafetyTests: harmful prompts",
    {"evaluation": evaluation},
    {"evaluation": ("prompts_final", "harm_area")},
)
