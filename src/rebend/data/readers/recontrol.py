"""RE-Control's test files (arXiv:2406.05954): posts of SHP, and a second file with the preferred comments."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, prompt_row, text, user_turn


def prompts(row: Row) -> list[Row]:
    """Return the post; the reference is the preferred comment from the second file, if there is one."""
    reference = text(row, "prefer") if "prefer" in row else None
    return [prompt_row(user_turn(text(row, "history")), reference)]


RECONTROL = Reader(
    "recontrol",
    "RE-Control's test files: posts, and with `reference` the preferred comments line by line",
    {"prompts": prompts},
    {"prompts": ("history",)},
    reference=("prefer",),
)
