"""Stanford Human Preferences: a Reddit post and two comments."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, UnusableRowError, preference_row, prompt_row, text, user_turn, word


def preference(row: Row) -> list[Row]:
    """Return the post and its two comments; `labels` is 1 if A is preferred, 0 if B is."""
    label = word(row, "labels", ("0", "1"))
    if label is None:
        raise UnusableRowError("no labels")
    answers = text(row, "human_ref_A"), text(row, "human_ref_B")
    chosen, rejected = answers if label == "1" else answers[::-1]
    return [preference_row(user_turn(text(row, "history")), chosen, rejected)]


def prompts(row: Row) -> list[Row]:
    """Return the post, with the preferred comment as the reference."""
    (pair,) = preference(row)
    return [prompt_row(pair["messages"], pair["chosen"])]


def released_prompts(row: Row, user_word: str) -> list[Row]:
    """Return the prompt as RE-Control's released code makes it, with the preferred comment as the reference."""
    (pair,) = preference(row)
    return [prompt_row(user_turn(released_prompt(text(row, "history"), user_word)), pair["chosen"])]


def released_prompt(post: str, user_word: str) -> str:
    """Return a post as one text with RE-Control's words for the turns."""
    return f"{user_word}: {post}\nAssistant:"


_COLUMNS = ("history", "human_ref_A", "human_ref_B", "labels")
SHP = Reader(
    "shp",
    "stanfordnlp/SHP: a post and two comments",
    {"preference": preference, "prompts": prompts},
    {"preference": _COLUMNS, "prompts": _COLUMNS},
    released_prompts=released_prompts,
)
