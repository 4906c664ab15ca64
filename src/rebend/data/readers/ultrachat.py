"""UltraChat, and other files of the same format: a column `messages` of turns with `role` and `content`."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Messages, Row, UnusableRowError, is_missing, prompt_row, split_answer

_ROLES = ("system", "user", "assistant")


def dialogue(row: Row) -> Messages:
    """Return the turns of a row. Raises ValueError if they are no list of role and content."""
    messages = row["messages"]
    if is_missing(messages):
        raise UnusableRowError("no messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise ValueError("'messages' is not a list of turns with role and content")
    turns = []
    for turn in messages:
        role, content = turn.get("role"), turn.get("content")
        if role not in _ROLES:
            raise ValueError(f"a turn's role is {role!r}. Allowed: {', '.join(_ROLES)}")
        if is_missing(content):
            raise UnusableRowError("a turn without text")
        if not isinstance(content, str):
            raise ValueError(f"a turn's content in 'messages' is {content!r:.60}; text is expected")
        turns.append({"role": role, "content": content})
    return turns


def chat(row: Row) -> list[Row]:
    """Return the dialogue, which must end with an answer.

    RepBend's released code takes the first 10,001 dialogues of the training split; a block with `rows: 10000` draws
    10,000 at random. The data contain no BOS token: the chat template adds it.
    """
    prompt, answer = split_answer(dialogue(row))
    return [{"messages": [*prompt, {"role": "assistant", "content": answer}]}]


def prompts(row: Row) -> list[Row]:
    """Return the dialogue without its last answer; that answer is the reference."""
    return [prompt_row(*split_answer(dialogue(row)))]


ULTRACHAT = Reader(
    "ultrachat",
    "UltraChat: dialogues",
    {"chat": chat, "prompts": prompts},
    {"chat": ("messages",), "prompts": ("messages",)},
)
