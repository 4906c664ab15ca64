"""A judge for tests: a local HTTP server with OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers.json_server import JsonHandler, JsonServer, Reply, started_servers

Answer = Callable[[str, int], Reply]  # user text, number of requests with it -> reply


class Judge(JsonServer):
    """Replies with `answer(text, times)`; `times` counts requests with the same text."""

    path = "/v1"

    def __init__(self, answer: Answer, handler: type[JsonHandler] | None = None) -> None:
        super().__init__(handler)
        self.answer = answer

    def texts(self, body: dict[str, Any]) -> list[str]:
        return [body["messages"][-1]["content"]]

    def reply(self, body: dict[str, Any], times: int) -> Reply:
        return self.answer(self.texts(body)[0], times)


def reply(text: str, finish: str = "stop", **message: Any) -> Reply:
    """Return a chat completion with this text."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    usage = {"total_tokens": 7, "prompt_tokens": 5, "completion_tokens": 2}
    return 200, json.dumps({**body, "usage": usage}).encode(), {}


def failure(status: int, code: str = "x") -> Reply:
    """Return an error that a client may repeat after a millisecond."""
    return status, json.dumps({"error": {"message": "no", "code": code}}).encode(), {"retry-after-ms": "1"}


@contextmanager
def judges_on_call(monkeypatch: pytest.MonkeyPatch, kind: type[Judge] = Judge) -> Iterator[Callable[[Answer], Any]]:
    """Yield a function that starts a judge; all judges stop at the end of the block."""
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with started_servers(kind) as start:
        yield start
