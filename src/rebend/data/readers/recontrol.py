"""RE-Control's test files (arXiv:2406.05954): posts of SHP, and a second file with the preferred comments."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, prompt_row, text, user_turn
from rebend.data.readers.shp import released_prompt


def prompts(row: Row) -> list[Row]:
    """Return the post; the reference is the preferred comment from the second file, if there is one."""
    return [prompt_row(user_turn(text(row, "history")), _reference(row))]


def released_prompts(row: Row, user_word: str) -> list[Row]:
    """Return the post as one text with RE-Control's words for the turns."""
    return [prompt_row(user_turn(released_prompt(text(row, "history"), user_word)), _reference(row))]


def _reference(row: Row) -> str | None:
    return text(row, "prefer") if "prefer" in row else None


RECONTROL = Reader(
    "recontrol",
    "RE-Control's test files: posts, and with `reference` the preferred comments line by line",
    {"prompts": prompts},
    {"prompts": ("history",)},
    reference=("prefer",),
    released_prompts=released_prompts,
)
