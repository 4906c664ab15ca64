"""GuidedBench's harmful questions (arXiv:2502.16903)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text


def evaluation(row: Row) -> list[Row]:
    """Return a harmful question, with the beginning of a compliant answer as its target.

    File: HRXUST/GuidedBench on the hub, whose card names the columns: 180 questions of 15 topics in the subset `core`,
    and 20 questions in `additional`, which its authors report separately. The guidelines for each question are not
    read: the safety judges here have the same criteria for all questions.
    """
    return [
        evaluation_row(
            text(row, "question"),
            True,
            group=optional_text(row, "subset"),
            category=optional_text(row, "topic"),
            target=optional_text(row, "target"),
        )
    ]


GUIDEDBENCH = Reader(
    "guidedbench",
    "GuidedBench: harmful questions with the beginning of a compliant answer",
    {"evaluation": evaluation},
    {"evaluation": ("question", "topic")},
    optional={"evaluation": ("subset", "target")},
)
