"""HarmfulQA's questions (arXiv:2308.09662)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text


def evaluation(row: Row) -> list[Row]:
    """Return a harmful question; its topic is the category.

    File: `data_for_hub.json` of declare-lab/HarmfulQA on the hub. The safe and harmful conversations of each question
    (`blue_conversations`, `red_conversations`) are not read. Columns as public loaders of the set read them.
    """
    return [evaluation_row(text(row, "question"), True, category=optional_text(row, "topic"))]


HARMFULQA = Reader(
    "harmfulqa",
    "HarmfulQA: harmful questions by topic",
    {"evaluation": evaluation},
    {"evaluation": ("question", "topic")},
)
