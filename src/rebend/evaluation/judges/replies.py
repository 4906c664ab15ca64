"""Judge prompts, replies and their parsing. Refused, unreadable and failed replies are distinct states."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rebend.evaluation.judges.content import answers_in, content_refusal, content_text
from rebend.evaluation.judges.endings import COMPLETE, CUT, FAILED, FILTERED, UNKNOWN, ending_of
from rebend.evaluation.judges.reply_store import KeptReply
from rebend.io.address_errors import own_reason, shortened
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
    """A parsed reply, or the lack of one.

    `state` is read (with `marks`), refused, unreadable, too_long (the prompt) or error; `detail` is the reason. Only
    replies of the state error have a passing cause: they are not stored, and the next run asks again.
    """

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


@dataclass(frozen=True)
class Rejected:
    """A status other than 200 with the address's own reason, or a passing error inside a status 200."""

    status: int | None
    reason: str
    code: str = ""
    state: str = "error"  # of the reply: refused or too_long if the status concerns this prompt only
    tokens_in: int = 0  # paid all the same, as far as the address reports it
    tokens_out: int = 0


def kept_reply(completion: Any) -> KeptReply | Rejected:
    """Return a completion as a reply for the store, with the API key removed; `Rejected` if it has no message."""
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        return _rejection(completion)
    error = _plain(getattr(choice, "error", None)) or _plain(getattr(completion, "error", None))
    tokens_in, tokens_out = _paid(_plain(getattr(completion, "usage", None)))
    if error:
        return Rejected(None, *own_reason({"error": error})[::-1], "error", tokens_in or 0, tokens_out or 0)
    content = _plain(getattr(message, "content", None))
    refusal = getattr(message, "refusal", None) or content_refusal(content)
    finish = getattr(choice, "finish_reason", None)
    return KeptReply(
        text=without_key(content_text(content)),
        finish=None if finish is None else str(finish),
        refusal=without_key(str(refusal)) if refusal else None,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        served_by=without_key(str(completion.model)) if getattr(completion, "model", None) else None,
    )


def read_reply(kept: KeptReply, form: Form) -> Reply:
    """Parse a stored reply; refused and unreadable replies and passing errors have different states.

    Without a known complete ending, a reply counts as truncated, so that a broken-off number is no mark.
    """
    paid = kept.tokens_in or 0, kept.tokens_out or 0
    ending = ending_of(kept.finish)
    if ending == FILTERED or kept.refusal:
        return Reply("refused", None, kept.text, kept.refusal or "content filter", *paid)
    if ending == FAILED:
        return Reply("error", None, kept.text, f"the reply ended as '{kept.finish}'", *paid)
    answers = answers_in(kept.text)
    for answer in answers:
        if (marks := form.read(answer, truncated=ending != COMPLETE)) is not None:
            return Reply("read", marks, kept.text, "", *paid)
    if any(_DECLINED.search(answer[:200]) for answer in answers):  # declined is not the same as unreadable
        return Reply("refused", None, kept.text, "the judge declined", *paid)
    if ending == UNKNOWN:
        shown = "without an ending" if kept.finish is None else f"with the unknown ending '{kept.finish}'"
        return Reply("error", None, kept.text, f"no marks in a reply {shown}", *paid)
    if not kept.text and ending == COMPLETE and not kept.tokens_out:
        return Reply("error", None, kept.text, "an empty reply", *paid)
    return Reply("unreadable", None, kept.text, "truncated" if ending == CUT else form.unreadable, *paid)


def without_key(text: str) -> str:
    """Remove the API key from a text of an address; some addresses repeat it in error messages."""
    key = os.environ.get(KEY, "")
    return without_keys(text.replace(key, MARK) if len(key) >= _SECRET_LENGTH else text)


def failure(reason: Exception | str) -> Reply:
    """Return a reply of state "error" with this reason."""
    text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
    return Reply("error", None, None, shortened(without_key(text)))


def _rejection(body: Any) -> Rejected:
    """Return the reason that a body of status 200 without a message states."""
    plain = _plain(body)
    code, reason = own_reason(plain)
    if not reason and isinstance(plain, Mapping):
        reason = f"no message in {json.dumps(plain, default=str)}"
    return Rejected(None, reason or "an empty body", code)


def _paid(usage: Any) -> tuple[int | None, int | None]:
    """Return the numbers of tokens in a `usage`, which some addresses write as text; None for what is no count."""
    if isinstance(usage, str):
        try:
            usage = json.loads(usage)
        except ValueError:
            usage = None
    counts = usage if isinstance(usage, Mapping) else {}
    return _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def _count(value: Any) -> int | None:
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number is not None and number >= 0 and number.is_integer() else None


def _plain(value: Any) -> Any:
    """Return an object of the package openai as plain JSON values."""
    return value.model_dump(mode="python", warnings=False) if hasattr(value, "model_dump") else value
