"""Stanford Human Preferences (a Reddit post and two comments), and the files that RE-Control made from it."""

from __future__ import annotations

from rebend.data.readers.rows import Source, UnusableRowError, asked, preference_row, prompt_row, text


def preference(row: Source) -> list[Source]:
    """The post and its two comments; `labels` is 1 where A is preferred."""
    label = row["labels"]
    if label is None:
        raise UnusableRowError("no labels")
    if str(label) not in ("0", "1"):
        raise ValueError(f"'labels' is {label!r}. Allowed: 1 (A is preferred), 0 (B is)")
    answers = text(row, "human_ref_A"), text(row, "human_ref_B")
    chosen, rejected = answers if str(label) == "1" else answers[::-1]
    return [preference_row(asked(text(row, "history")), chosen, rejected)]


def prompts(row: Source) -> list[Source]:
    """The post, with the preferred comment as the reference."""
    (pair,) = preference(row)
    return [prompt_row(pair["messages"], pair["chosen"])]


def recontrol_prompts(row: Source) -> list[Source]:
    """The post; the reference is the line of the second file that was joined to the row, if there is one."""
    reference = text(row, "prefer") if "prefer" in row else None
    return [prompt_row(asked(text(row, "history")), reference)]
