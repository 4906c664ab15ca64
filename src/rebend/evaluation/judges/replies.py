"""Judge prompts, replies and their parsing. Refused, unreadable and failed replies are distinct states."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rebend.evaluation.judges.reply_store import KeptReply
from rebend.io.secrets import MARK, without_keys

KEY = "OPENAI_API_KEY"
_SECRET_LENGTH = 8  # shorter keys are placeholders like "none", for servers that need no key
_DECLINED = re.compile(
    r"\b(?:i['’]m sorry|i am sorry|i (?:can['’]?t|cannot|won['’]?t|am unable to|must decline)|as an ai)\b",
    re.IGNORECASE,
)


class ReadMarks(Protocol):
    """A parser of the marks in a reply. A truncated reply may end anywhere."""

    def __call__(self, reply: str, *, truncated: bool) -> tuple[float, ...] | None:
        """Return the marks, or None without marks."""


@dataclass(frozen=True)
class Form:
    """The system message of a judge, and the parser of its replies."""

    version: str  # part of the key of stored replies, so that a new wording needs new requests
    system: str
    read: ReadMarks
    unreadable: str  # reason in the verdict on a reply without marks
    response_format: Mapping[str, Any] | None = None  # sent unless the address rejects it


@dataclass(frozen=True)
class Reply:
    """A parsed reply. `state` is read (with `marks`), refused, unreadable or error (with the reason in `detail`)."""

    state: str
    marks: tuple[float, ...] | None
    text: str | None
    detail: str
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of request and reply."""
        return self.tokens_in + self.tokens_out


def kept_reply(completion: Any) -> KeptReply | None:
    """Return a completion as a reply for the store, with the API key removed; None if it has no message."""
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return None
    message, usage = choices[0].message, getattr(completion, "usage", None)
    refusal = getattr(message, "refusal", None)
    return KeptReply(
        text=without_key(message.content or ""),
        finish=choices[0].finish_reason,
        refusal=without_key(refusal) if refusal else None,
        tokens_in=getattr(usage, "prompt_tokens", None),
        tokens_out=getattr(usage, "completion_tokens", None),
        served_by=without_key(str(completion.model)) if getattr(completion, "model", None) else None,
    )


def read_reply(kept: KeptReply, form: Form) -> Reply:
    """Parse a stored reply; refused and unreadable replies have different states."""
    paid = kept.tokens_in or 0, kept.tokens_out or 0
    if kept.finish == "content_filter" or kept.refusal:
        return Reply("refused", None, kept.text, kept.refusal or "content filter", *paid)
    truncated = kept.finish == "length"
    marks = form.read(kept.text, truncated=truncated)
    if marks is not None:
        return Reply("read", marks, kept.text, "", *paid)
    if _DECLINED.search(kept.text[:200]):  # declined is not the same as unreadable
        return Reply("refused", None, kept.text, "the judge declined", *paid)
    return Reply("unreadable", None, kept.text, "truncated" if truncated else form.unreadable, *paid)


def without_key(text: str) -> str:
    """Remove the API key from a text of an address; some addresses repeat it in error messages."""
    key = os.environ.get(KEY, "")
    return without_keys(text.replace(key, MARK) if len(key) >= _SECRET_LENGTH else text)


def failure(reason: Exception | str) -> Reply:
    """Return a reply of state "error" with this reason."""
    text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
    return Reply("error", None, None, without_key(text))
