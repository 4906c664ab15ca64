"""What an address says when it does not answer: its own reason, and whether that reason concerns one text only.

Judges and reward models at an address share these rules. Addresses put errors into a reply of status 200 too, as the
body's `error`, `message` or `detail` (OpenRouter, vLLM, FastAPI). The patterns are the words of OpenAI, Azure,
OpenRouter, Anthropic, Gemini, Mistral, DashScope, vLLM, TGI and llama.cpp.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from threading import Lock
from typing import Any

BUSY = (408, 425, 429, 500, 502, 503, 504)  # status codes of a request that is repeated
SHOWN = 300  # characters of a foreign text in a message
FIRST_REPLIES = 5  # a warning follows if none of so many has a value
_ABOUT_THE_TEXT = (400, 403, 413, 422)  # status codes that may concern one text only
_TOO_LONG = re.compile(
    r"context[ _]?(?:length|window|size)|context_length_exceeded|string_above_max_length|max_model_len"
    r"|(?:prompt|input|request|text)s? (?:is|are|was) too (?:long|large)|too many (?:input )?tokens"
    r"|exceed\w* the (?:model's )?(?:max\w*|context|available)|longer than the max\w*|reduce the length"
    r"|inputs?`? tokens .{0,40}must be",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[ _-]?(?:filter|management|policy|moderation)|responsible ?ai|data_?inspection|inappropriate content"
    r"|moderation|flagged|usage polic|safety system|invalid_prompt",
    re.IGNORECASE,
)


def concerns_one_text(status: int | None, reason: str) -> str | None:
    """Return "refused" (a content filter) or "too_long" if an error status is about this text alone, else None."""
    if status == 413:
        return "too_long"
    if status not in _ABOUT_THE_TEXT:
        return None
    if _FILTERED.search(reason):
        return "refused"
    return "too_long" if status != 403 and _TOO_LONG.search(reason) else None


def own_reason(body: Any) -> tuple[str, str]:
    """Return code and reason that a body without a result states; both "" if it states none.

    `body` is plain JSON: a mapping, or a text that is returned as it is. The reason may contain an API key: remove it
    before a cut, which might leave a part of it.
    """
    if not isinstance(body, Mapping):
        return "", _text(body) if body else ""
    error = body.get("error") or next((body[key] for key in ("message", "detail") if body.get(key)), None)
    if not isinstance(error, Mapping):
        return str(body.get("code") or ""), _text(error) if error else ""
    raw = error.get("metadata")
    inner = f" ({_text(raw['raw'])})" if isinstance(raw, Mapping) and raw.get("raw") else ""
    return str(error.get("code") or error.get("type") or ""), f"{_text(error.get('message') or error)}{inner}"


def shortened(text: str) -> str:
    """Return a text on one line, with at most `SHOWN` characters."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[:SHOWN] + " …"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


class FirstReplies:
    """Warns once if none of the first replies of a run has a value, with the text of one of them.

    A wrong model, wording or address costs a few requests then, not all of them. Threads may share an instance.
    """

    def __init__(self, asked: str, most: int = FIRST_REPLIES) -> None:
        self.asked, self.most = asked, most
        self._seen = 0
        self._shown = ""
        self._done = False
        self._lock = Lock()

    def add(self, readable: bool, shown: str) -> None:
        """Count a reply; `shown` describes it in the warning and must not contain a key."""
        with self._lock:
            self._done = self._done or readable
            self._seen += 1
            self._shown = self._shown or shown
            self._warn(self._seen >= self.most)

    def end(self) -> None:
        """Warn also about fewer replies, when no other reply will come."""
        with self._lock:
            self._warn(self._seen > 0)

    def _warn(self, due: bool) -> None:
        if due and not self._done:
            self._done = True
            finding = f"none of the first {self._seen} replies can be used. One of them: {self._shown}"
            print(f"WARNING: {self.asked}: {finding}", file=sys.stderr, flush=True)
