"""RE-Control's own test files (arXiv:2406.05954): posts of SHP, and the preferred comments in a second file."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Source, asked, prompt_row, text


def prompts(row: Source) -> list[Source]:
    """The post; the reference is the line of the second file that was joined to the row, if there is one."""
    reference = text(row, "prefer") if "prefer" in row else None
    return [prompt_row(asked(text(row, "history")), reference)]


RECONTROL = Reader(
    "recontrol",
    "RE-Control's own test files: posts, and with `reference` the preferred comments line by line",
    {"prompts": prompts},
    {"prompts": ("history",)},
    reference=("prefer",),
)
