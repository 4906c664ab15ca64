"""A real judge for tests: an OpenAI-compatible address on this machine that answers as a function says."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = Callable[[str, int], tuple[int, bytes, dict[str, str]]]  # user text, how often asked -> status, body, headers


class Judge(ThreadingHTTPServer):
    """An OpenAI-compatible address that answers as `answer` says and counts what it is asked."""

    daemon_threads = True

    def __init__(self, answer: Answer, handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.answer = answer
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    def handle_error(self, *args: Any) -> None:
        """Say nothing of those who have hung up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked[text] += 1
            self.server.bodies.append({**body, "key": self.headers["Authorization"], "path": self.path})
            times = self.server.asked[text]
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        status, payload, headers = self.server.answer(text, times)
        with self.server.lock:
            self.server.busy -= 1
        self.send(status, payload, headers)

    def send(self, status: int, payload: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def reply(text: str, finish: str = "stop", **message: Any) -> tuple[int, bytes, dict[str, str]]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return (
        200,
        json.dumps({**body, "usage": {"total_tokens": 7, "prompt_tokens": 5, "completion_tokens": 2}}).encode(),
        {},
    )


def failure(status: int, code: str = "x") -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps({"error": {"message": "no", "code": code}}).encode(), {"retry-after-ms": "1"}


@contextmanager
def judges_on_call(monkeypatch: pytest.MonkeyPatch, kind: type[Judge] = Judge) -> Iterator[Callable[[Answer], Any]]:
    """Yield a function that starts a judge; all of them end with the block."""
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    servers: list[Judge] = []

    def start(answer: Answer) -> Judge:
        servers.append(kind(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
