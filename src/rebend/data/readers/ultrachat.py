"""UltraChat, and every file of the same shape: `messages` with `role` and `content`."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Messages, Source, UnusableRowError, parted, prompt_row

_ROLES = ("system", "user", "assistant")


def dialogue(row: Source) -> Messages:
    """Return the turns of a row, checked for their shape."""
    messages = row["messages"]
    if messages is None:
        raise UnusableRowError("no messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise ValueError("'messages' is not a list of turns with role and content")
    turns = []
    for turn in messages:
        role, content = turn.get("role"), turn.get("content")
        if role not in _ROLES:
            raise ValueError(f"a turn's role is {role!r}. Allowed: {', '.join(_ROLES)}")
        if not isinstance(content, str):
            raise UnusableRowError("a turn without text")
        turns.append({"role": role, "content": content})
    return turns


def chat(row: Source) -> list[Source]:
    """The dialogue, which must end with an answer.

    RepBend's released code keeps the first 10,001 dialogues of the training split; a block with `rows: 10000` draws
    as many. The token that begins a text is no part of the data: it is the chat template's.
    """
    prompt, answer = parted(dialogue(row))
    return [{"messages": [*prompt, {"role": "assistant", "content": answer}]}]


def prompts(row: Source) -> list[Source]:
    """The dialogue without its last answer, which is the reference."""
    return [prompt_row(*parted(dialogue(row)))]


ULTRACHAT = Reader(
    "ultrachat",
    "UltraChat: dialogues",
    {"chat": chat, "prompts": prompts},
    {"chat": ("messages",), "prompts": ("messages",)},
)
