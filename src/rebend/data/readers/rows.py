"""Functions that readers share: read a field, check a dialogue, split a dialogue into prompt and answer, make a row.

They raise `UnusableRowError` for a row to leave out and count by its reason, and `ValueError` for a row that violates
its format; `Reader.convert` adds file and line to the latter.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rebend.errors import likely_typo

CONTEXT_END = "\n\n---\n\n"  # between the context of a HarmBench behaviour and the behaviour itself

Row = Mapping[str, Any]
Messages = list[dict[str, str]]


class UnusableRowError(Exception):
    """A well-formed row cannot be used; the message is the reason under which it is counted."""


class UnselectedRowError(UnusableRowError):
    """A usable row does not belong to the selection."""


def text(row: Row, column: str) -> str:
    """Return the text of a required column.

    Raises `UnusableRowError` if it is missing or blank, and ValueError if it is no text.
    """
    if is_missing(row.get(column)):
        raise UnusableRowError(f"no {column}")
    value = optional_text(row, column)
    if not value.strip():
        raise UnusableRowError(f"empty {column}")
    return value


def optional_text(row: Row, column: str) -> str:
    """Return the text of an optional column; "" if it is missing. Raises ValueError if it is no text."""
    value = row.get(column)
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"'{column}' is {value!r:.60} ({type(value).__name__}); text is expected")
    return value


def text_or_none(row: Row, column: str) -> str | None:
    """Return the text of an optional column; None if it is missing or blank. Raises ValueError if it is no text."""
    value = optional_text(row, column)
    return value if value.strip() else None


def word(row: Row, column: str, allowed: Sequence[str]) -> str | None:
    """Return the value of a column, one of the allowed words; None if it is missing or empty.

    A number or truth value is compared by its written form: 1 and 1.0 (a whole number beside missing ones) are "1",
    true is "true". Raises ValueError if it is none of the allowed words.
    """
    value = row.get(column)
    if is_missing(value) or value == "":
        return None
    written = written_form(value)
    if written not in allowed:
        raise ValueError(f"'{column}' is {value!r:.60}. Allowed: {', '.join(allowed)}.{likely_typo(written, allowed)}")
    return written


def written_form(value: object) -> str:
    """Return a text unchanged, a truth value as "true" or "false", and a whole number without decimals."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_missing(value: object) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def user_turn(prompt: str) -> Messages:
    """Return a dialogue of one user turn."""
    return [{"role": "user", "content": prompt}]


def checked_dialogue(messages: Messages) -> Messages:
    """Return `messages` unchanged.

    Raises `UnusableRowError` unless they are non-empty turns of user and assistant in alternation, beginning with the
    user, after at most one system turn.
    """
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


def split_answer(messages: Messages) -> tuple[Messages, str]:
    """Split a dialogue into the prompt (up to the user's last turn) and the final answer."""
    *prompt, last = checked_dialogue(messages)
    if last["role"] != "assistant":
        raise UnusableRowError("no final answer")
    return prompt, last["content"]


def prompt_row(messages: Messages, reference: str | None, group: str = "", cluster: str | None = None) -> Row:
    """Return a row of kind `prompts`. Raises `UnusableRowError` if a turn of the prompt is the reference.

    `cluster`: what the prompt has in common with others; None: `rebend.data.clusters` derives it.
    """
    if reference is not None and any(turn["content"].strip() == reference.strip() for turn in messages):
        raise UnusableRowError("the prompt holds the answer")
    return {"messages": messages, "reference": reference, "group": group, **_cluster(cluster)}


def preference_row(messages: Messages, chosen: str, rejected: str) -> Row:
    """Return a row of kind `preference`."""
    if chosen == rejected:
        raise UnusableRowError("both answers are the same")
    return {"messages": messages, "chosen": chosen, "rejected": rejected}


def safety_row(messages: Messages, response: str, label: str) -> Row:
    """Return a row of kind `safety` without a pair."""
    return {"messages": messages, "response": response, "label": label, "pair": None}


def safety_pair(messages: Messages, safe: str, unsafe: str) -> list[Row]:
    """Return the two rows of a pair; the pair's name is a digest of its content."""
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
    cluster: str | None = None,
) -> Row:
    """Return a row of kind `evaluation`; `request` is the harmful request inside a jailbreak `prompt`.

    `cluster` as in `prompt_row`.
    """
    return {
        "messages": user_turn(prompt),
        "request": request,
        "target": target,
        "harmful": harmful,
        "reference": reference,
        "group": group,
        "category": category,
        **_cluster(cluster),
    }


def _cluster(cluster: str | None) -> Row:
    return {"cluster": cluster} if cluster else {}


def content_id(content: object) -> str:
    """Return 16 hexadecimal digits of a SHA-256 that depends on the content only."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:16]
    except UnicodeEncodeError as error:
        raise UnusableRowError("half a character (unpaired surrogate)") from error
