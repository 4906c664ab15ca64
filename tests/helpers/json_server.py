"""An HTTP server for tests that receives JSON, counts texts and replies with what a function returns."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Reply = tuple[int, bytes, dict[str, str]]  # status, body, headers
_Server = TypeVar("_Server", bound="JsonServer")


class JsonServer(ThreadingHTTPServer):
    """Stores each request; a subclass says which texts a request holds, and what the reply is."""

    daemon_threads = True
    path = "/"

    def __init__(self, handler: type[JsonHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or JsonHandler)
        self.requested: Counter[str] = Counter()  # text -> number of requests with it
        self.requests: list[dict[str, Any]] = []
        self.running = self.most_running = 0  # requests at the same time
        self.lock = threading.Lock()

    def texts(self, body: dict[str, Any]) -> list[str]:
        """Return the texts of a request."""
        raise NotImplementedError

    def reply(self, body: dict[str, Any], times: int) -> Reply:
        """Return the reply to a request whose first text was requested `times` times."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.path}"

    def handle_error(self, *args: Any) -> None:
        """Ignore closed connections."""


class JsonHandler(BaseHTTPRequestHandler):
    server: JsonServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = self.server.texts(body)
        with self.server.lock:
            self.server.requested.update(texts)
            self.server.requests.append({**body, "key": self.headers["Authorization"], "path": self.path})
            times = self.server.requested[texts[0]]
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        reply = self.server.reply(body, times)
        with self.server.lock:
            self.server.running -= 1
        self.send(*reply)

    def send(self, status: int, payload: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: Any) -> None:
        """Write no log."""


@contextmanager
def started_servers(kind: Callable[..., _Server]) -> Iterator[Callable[..., _Server]]:
    """Yield a function that makes and starts a server of this kind; all of them stop at the end of the block."""
    servers: list[_Server] = []

    def start(*args: Any) -> _Server:
        servers.append(kind(*args))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
