"""What the readers share: fields of a source row, turns of a dialogue, and the one place where prompt and answer part.

A row that cannot be used is `UnusableRowError` with a reason that is counted; a row that breaks its format is a
`ValueError`, which becomes an error with file and line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rebend.errors import likely_typo

CONTEXT_END = "\n\n---\n\n"  # between the context of a HarmBench behaviour and the behaviour itself

Source = Mapping[str, Any]
Messages = list[dict[str, str]]


class UnusableRowError(Exception):
    """A well-formed row that cannot be used; its text is the reason under which it is counted."""


class UnselectedRowError(UnusableRowError):
    """A row that the reader leaves out by design, however good it is."""


def text(row: Source, column: str) -> str:
    """Return a text that must be there and hold more than white space."""
    value = row.get(column)
    if value is None:
        raise UnusableRowError(f"no {column}")
    if not isinstance(value, str):
        raise ValueError(f"'{column}' is {str(value)[:60]!r}; text is expected")
    if not value.strip():
        raise UnusableRowError(f"empty {column}")
    return value


def optional_text(row: Source, column: str) -> str:
    """Return a text that may be absent, as "" then."""
    value = row.get(column)
    return "" if value is None else str(value)


def word(row: Source, column: str, allowed: Sequence[str]) -> str | None:
    """Return one of the allowed words, or None where the row has none."""
    value = row.get(column)
    if value is None or value == "":
        return None
    if value not in allowed:
        raise ValueError(
            f"'{column}' is {str(value)[:60]!r}. Allowed: {', '.join(allowed)}.{likely_typo(value, allowed)}"
        )
    return str(value)


def asked(prompt: str) -> Messages:
    """Return a prompt of one user turn."""
    return [{"role": "user", "content": prompt}]


def checked_dialogue(messages: Messages) -> Messages:
    """Return `messages` if they alternate from the user on, after at most one system turn; no turn is empty."""
    roles = [turn["role"] for turn in messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles:
        raise UnusableRowError("no turns")
    if any(not turn["content"].strip() for turn in messages):
        raise UnusableRowError("empty turn")
    if roles[0] != "user":
        raise UnusableRowError(f"begins with the {roles[0]}'s turn")
    if any(before == after for before, after in pairwise(roles)):
        raise UnusableRowError("two turns of one speaker in a row")
    return messages


def parted(messages: Messages) -> tuple[Messages, str]:
    """Part a dialogue into the prompt (up to the user's last turn) and the answer that ends it."""
    *prompt, last = checked_dialogue(messages)
    if last["role"] != "assistant":
        raise UnusableRowError("no final answer")
    return prompt, last["content"]


def prompt_row(messages: Messages, reference: str | None, group: str = "") -> Source:
    """Return a row of kind `prompts`; a prompt of which one turn is the answer itself cannot be used."""
    if reference is not None and any(turn["content"].strip() == reference.strip() for turn in messages):
        raise UnusableRowError("the prompt holds the answer")
    return {"messages": messages, "reference": reference, "group": group}


def preference_row(messages: Messages, chosen: str, rejected: str) -> Source:
    """Return a row of kind `preference`."""
    if chosen == rejected:
        raise UnusableRowError("both answers are the same")
    return {"messages": messages, "chosen": chosen, "rejected": rejected}


def safety_row(messages: Messages, response: str, label: str) -> Source:
    """Return a row of kind `safety`, not paired."""
    return {"messages": messages, "response": response, "label": label, "pair": None}


def safety_pair(messages: Messages, safe: str, unsafe: str) -> list[Source]:
    """Return the two rows of a pair; its name comes from its content."""
    if safe == unsafe:
        raise UnusableRowError("both answers are the same")
    pair = content_id([messages, safe, unsafe])
    answers = ((safe, "safe"), (unsafe, "unsafe"))
    return [{**safety_row(messages, response, label), "pair": pair} for response, label in answers]


def evaluation_row(
    prompt: str,
    harmful: bool,
    *,
    group: str = "",
    category: str = "",
    target: str = "",
    reference: str | None = None,
    request: str | None = None,
) -> Source:
    """Return a row of kind `evaluation`; `request` is what `prompt` asks for underneath a jailbreak."""
    return {
        "messages": asked(prompt),
        "request": request,
        "target": target,
        "harmful": harmful,
        "reference": reference,
        "group": group,
        "category": category,
    }


def content_id(content: object) -> str:
    """Return 16 hexadecimal digits that depend on nothing but the content."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:16]
    except UnicodeEncodeError as error:
        raise UnusableRowError("half a character (unpaired surrogate)") from error
