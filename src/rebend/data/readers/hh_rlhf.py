"""HH-RLHF (arXiv:2204.05862): `chosen` and `rejected` are two whole dialogues with different last answers."""

from __future__ import annotations

import re

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Messages,
    Source,
    UnusableRowError,
    parted,
    preference_row,
    prompt_row,
    safety_pair,
    text,
)

# A turn begins after an empty line; "Human:" inside a line belongs to the text.
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):(?=\s|\Z)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def dialogue(written: str) -> Messages:
    """Take a dialogue written as "\\n\\nHuman: ...\\n\\nAssistant: ..." apart into its turns."""
    before, *parts = _TURN.split(written)
    if before.strip() or not parts:
        raise UnusableRowError("not a dialogue of Human and Assistant")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[speaker], "content": said.strip()} for speaker, said in turns]


def preference(row: Source) -> list[Source]:
    """The prompt that both dialogues share, and their two answers."""
    prompt, chosen = parted(dialogue(text(row, "chosen")))
    other_prompt, rejected = parted(dialogue(text(row, "rejected")))
    if prompt != other_prompt:
        raise UnusableRowError("the dialogues differ before the last answer")
    return [preference_row(prompt, chosen, rejected)]


def prompts(row: Source) -> list[Source]:
    """The chosen dialogue without its last answer, which is the reference."""
    return [prompt_row(*parted(dialogue(text(row, "chosen"))))]


def chat(row: Source) -> list[Source]:
    """The chosen dialogue."""
    prompt, answer = parted(dialogue(text(row, "chosen")))
    return [{"messages": [*prompt, {"role": "assistant", "content": answer}]}]


def safety(row: Source) -> list[Source]:
    """A pair: the chosen answer counts as safe, the rejected one as unsafe."""
    (pair,) = preference(row)
    return safety_pair(pair["messages"], pair["chosen"], pair["rejected"])


_COLUMNS = ("chosen", "rejected")
HH_RLHF = Reader(
    "hh_rlhf",
    "HH-RLHF: two dialogues that differ in the last answer",
    {"preference": preference, "prompts": prompts, "chat": chat, "safety": safety},
    {"preference": _COLUMNS, "prompts": _COLUMNS, "chat": _COLUMNS, "safety": _COLUMNS},
)
