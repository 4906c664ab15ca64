"""The text of a reply that a judge's form is read from: its text parts, without thoughts, with or without a fence.

Reasoning models write thoughts into the content, between tags or before a closing tag alone (the template of the model
then contains the opening tag). Thoughts are no verdict, also where they contain a draft of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_NAMES = r"(?:think|thinking|thought|thoughts|reasoning)"
_OPENING = re.compile(rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|channel\|>\s*analysis", re.IGNORECASE)
_CLOSING = re.compile(
    rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>",
    re.IGNORECASE,
)
_FORM_BEGINS = re.compile(r"[\s*\"']*[\d{\[`-]")  # no thought begins like this, every requested form does
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)```", re.DOTALL)
_NO_TEXT = ("thinking", "reasoning", "thought", "redacted_thinking", "refusal")


def content_text(content: Any) -> str:
    """Return the text of a message's content: a text, or a list of parts, of which the text parts are joined."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        content = [content]
    return "".join(map(_part_text, content)) if isinstance(content, list) else ""


def content_refusal(content: Any) -> str | None:
    """Return the text of a part of type "refusal", or None."""
    parts = content if isinstance(content, list) else []
    refusals = [str(part.get("refusal") or part.get("text") or "") for part in parts if _kind(part) == "refusal"]
    return " ".join(refusals).strip() or ("the judge declined" if refusals else None)


def answers_in(text: str) -> tuple[str, ...]:
    """Return the parts of a reply that may be its answer, the first choice first; none if it is all thoughts."""
    opening = _OPENING.search(text)
    closings = list(_CLOSING.finditer(text))
    if opening is None and not closings:
        return (text,)
    ends = bool(closings) and (opening is None or closings[-1].start() > opening.start())
    rest = (text[closings[-1].end() :],) if ends else ()
    begins_with_thoughts = opening is not None and not text[: opening.start()].strip()
    # A reply that begins like an answer is one: tags further on are quotations.
    return (text, *rest) if not begins_with_thoughts and _FORM_BEGINS.match(text) else rest


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON object that is the whole text (backticks around it are ignored), or those in its fences."""
    text = text.strip()
    whole = _object(text.removeprefix("```json").strip("`").strip())
    if whole is not None:
        return [whole]
    fenced = [_object(block.strip()) for block in _FENCE.findall(text)]
    return [item for item in fenced if item is not None]


def the_only(text: str, read: Callable[[dict[str, Any]], T | None]) -> T | None:
    """Return what `read` returns for the JSON objects in a text; None without one, or if they differ."""
    values = [value for item in json_objects(text) if (value := read(item)) is not None]
    return values[0] if values and all(value == values[0] for value in values) else None


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or _kind(part) in _NO_TEXT or part.get("thought") is True:
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
