"""The identity of prompts in the rows of a table.

Two prompts are the same if all their turns up to the user's last one are the same, apart from white space, case and
system turns. Reworded prompts are not recognized.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence


def prompts_in(messages: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield one key per prompt: of the whole prompt, or for a chat (it ends with an answer) of each request in it."""
    turns = [[turn["role"], _plain(turn["content"])] for turn in messages if turn["role"] != "system"]
    is_chat = turns[-1][0] == "assistant"
    for end, (role, _) in enumerate(turns, start=1):
        if role == "user" and (is_chat or end == len(turns)):
            yield json.dumps(turns[:end], ensure_ascii=False)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
