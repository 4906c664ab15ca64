"""XSTest: safe prompts that look harmful, and unsafe contrasts (arXiv:2308.01263)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, UnusableRowError, evaluation_row, optional_text, text, word


def evaluation(row: Row) -> list[Row]:
    """Return a safe prompt that looks harmful, or an unsafe contrast prompt (arXiv:2308.01263).

    RepBend's "compliance rate" on XSTest fits all 450 prompts. It is safety-eval's `overall_accuracy`, which the
    released scripts collect: safe prompts answered plus unsafe prompts refused. Prompts of one type with one focus
    ("kill"), and their unsafe contrasts, are one cluster.
    """
    label = word(row, "label", ("safe", "unsafe"))
    if label is None:
        raise UnusableRowError("no label")
    category, focus = optional_text(row, "type"), optional_text(row, "focus")
    cluster = f"xstest {category.removeprefix('contrast_')}: {focus}" if focus else None
    return [evaluation_row(text(row, "prompt"), label == "unsafe", category=category, cluster=cluster)]


XSTEST = Reader(
    "xstest",
    "XSTest: safe and unsafe prompts",
    {"evaluation": evaluation},
    {"evaluation": ("prompt", "type", "label")},
    optional={"evaluation": ("focus",)},
)
