"""A reward endpoint for tests: an HTTP server with a tiny reward model."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rebend.config.rewards import RewardBlock
from tests.helpers.reward_models import make_reward

TEMPLATE = "Human: {prompt}\n\nAssistant: {response}"
Sent = tuple[int, bytes, dict[str, str]]  # status, body, headers


class RewardServer(ThreadingHTTPServer):
    """Replies with the rewards of a tiny model, or with `answer(body, times)`; `times` counts equal requests."""

    daemon_threads = True

    def __init__(self, answer: Callable[[dict[str, Any], int], Sent | None] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer or (lambda body, times: None)
        self.model = make_reward(template="{response}")
        self.requested: Counter[str] = Counter()  # texts
        self.requests: list[dict[str, Any]] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    def handle_error(self, *args: Any) -> None:
        """Ignore closed connections."""

    def rewards(self, texts: list[str]) -> list[float]:
        """Return the tiny model's rewards of whole texts, each scored alone."""
        with self.lock:
            return [self.model.forward([self.model.encode([], text)])[0] for text in texts]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/get_reward"


class Handler(BaseHTTPRequestHandler):
    server: RewardServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requested.update(body["query"])
            self.server.requests.append({**body, "key": self.headers["Authorization"], "path": self.path})
            times = self.server.requested[body["query"][0]]
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        status, payload, headers = self.server.answer(body, times) or sent(self.server.rewards(body["query"]))
        with self.server.lock:
            self.server.busy -= 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: Any) -> None:
        """Write no log."""


def sent(rewards: Any) -> Sent:
    """Return a reply with these rewards and the other keys of OpenRLHF's servers."""
    return 200, json.dumps({"rewards": rewards, "scores": rewards, "extra_logs": {}}).encode(), {}


def busy(status: int) -> Sent:
    return status, b"later", {"Retry-After": "0"}


@contextmanager
def endpoints_on_call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RewardServer]]:
    """Yield a function that starts a reward endpoint; all of them end with the block."""
    for name in ("REWARD_URL", "REWARD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[RewardServer] = []

    def start(answer: Callable[[dict[str, Any], int], Sent | None] | None = None) -> RewardServer:
        servers.append(RewardServer(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def block(server: RewardServer, batch_size: int = 2, **changes: Any) -> RewardBlock:
    """Return a reward block with the address of a server."""
    http = {"model": "tiny-2026-01-01", "url": server.url, "concurrency": 2, "retries": 2, "timeout": 20, **changes}
    return RewardBlock.model_validate({"http": http, "template": TEMPLATE, "batch_size": batch_size})
