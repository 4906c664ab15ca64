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
    user_turn,
)

# A turn begins after an empty line; "Human:" inside a line belongs to the text.
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):(?=\s|\Z)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def dialogue(transcript: str) -> Messages:
    """Return the turns of a dialogue in the form "\\n\\nHuman: ...\\n\\nAssistant: ...".

    A content is the text as it is written, without the one space after the colon. So the dialogue can be written again
    byte for byte.
    """
    before, *parts = _TURN.split(transcript)
    if before.strip() or not parts:
        raise UnusableRowError("not a dialogue of Human and Assistant")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[speaker], "content": content.removeprefix(" ")} for speaker, content in turns]


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


def released_prompts(row: Row, user_word: str) -> list[Row]:
    """Return the prompt as RE-Control's released code makes it: one text, which ends with "Assistant:".

    It is the chosen dialogue up to the last "Assistant:", also where that stands inside an answer; each "Human:" is
    replaced by the user's word with a space, which doubles the space after it.
    """
    asked, mark, answer = text(row, "chosen").rpartition("Assistant:")
    if not mark:
        raise UnusableRowError("no turn of the assistant")
    prompt = asked.replace("Human:", f"{user_word}: ") + mark
    return [prompt_row(user_turn(prompt), answer.strip() or None)]


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
    released_prompts=released_prompts,
)
