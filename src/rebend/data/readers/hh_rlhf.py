"""HH-RLHF (arXiv:2204.05862): `chosen` and `rejected` are two complete dialogues with different last answers."""

from __future__ import annotations

import re

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Messages,
    Row,
    UnusableRowError,
    preference_row,
    prompt_row,
    safety_pair,
    split_answer,
    text,
)

# A turn begins after an empty line; "Human:" inside a line belongs to the text.
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):(?=\s|\Z)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def dialogue(transcript: str) -> Messages:
    """Return the turns of a dialogue in the form "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    before, *parts = _TURN.split(transcript)
    if before.strip() or not parts:
        raise UnusableRowError("not a dialogue of Human and Assistant")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[speaker], "content": content.strip()} for speaker, content in turns]


def preference(row: Row) -> list[Row]:
    """Return the common prompt of both dialogues, with their two answers."""
    prompt, chosen = split_answer(dialogue(text(row, "chosen")))
    other_prompt, rejected = split_answer(dialogue(text(row, "rejected")))
    if prompt != other_prompt:
        raise UnusableRowError("the dialogues differ before the last answer")
    return [preference_row(prompt, chosen, rejected)]


def prompts(row: Row) -> list[Row]:
    """Return the chosen dialogue without its last answer; that answer is the reference."""
    return [prompt_row(*split_answer(dialogue(text(row, "chosen"))))]


def chat(row: Row) -> list[Row]:
    """Return the chosen dialogue."""
    prompt, answer = split_answer(dialogue(text(row, "chosen")))
    return [{"messages": [*prompt, {"role": "assistant", "content": answer}]}]


def safety(row: Row) -> list[Row]:
    """Return a pair: the chosen answer counts as safe, the rejected answer as unsafe."""
    (pair,) = preference(row)
    return safety_pair(pair["messages"], pair["chosen"], pair["rejected"])


_COLUMNS = ("chosen", "rejected")
HH_RLHF = Reader(
    "hh_rlhf",
    "HH-RLHF: two dialogues that differ in the last answer",
    {"preference": preference, "prompts": prompts, "chat": chat, "safety": safety},
    {"preference": _COLUMNS, "prompts": _COLUMNS, "chat": _COLUMNS, "safety": _COLUMNS},
)
