"""A local HTTP server with the hub's API and with plain files, for tests of downloads."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/]+)")


@dataclass
class Hub:
    """The served files and the received requests; tests may change both."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)  # "owner/name" or "datasets/owner/name" -> files
    plain: dict[str, bytes] = field(default_factory=dict)  # path -> bytes
    commit: str = COMMIT  # commit of every branch
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(
        default_factory=dict
    )  # path of a plain file -> bytes sent before the connection breaks, once
    tags: bool = True  # whether plain files have an ETag
    ranges: bool = True  # whether plain files support range requests
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    url: str = ""

    def gets(self, end: str) -> list[str]:
        """Return the ranges of the GET requests for paths with this end."""
        return [part for method, path, part in self.requests if method == "GET" and path.endswith(end)]


@contextmanager
def serving() -> Iterator[Hub]:
    """Run the server until the end of the block; yield its files and requests."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if match := _API.fullmatch(path):
            self.api(*match.groups())
        elif match := _RESOLVE.fullmatch(path):
            self.file(*match.groups())
        elif path in self.hub.plain:
            self.plain(path)
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def api(self, kind: str, repo: str, what: str, revision: str) -> None:
        name = repo if kind == "models" else f"datasets/{repo}"
        files = self.hub.repos.get(name)
        if files is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        answer: Any = {
            "id": repo,
            "sha": self.commit_of(revision),
            "gated": "auto" if name in self.hub.gated else False,
        }
        if what == "tree":
            answer = [
                {"type": "file", "oid": sha1(b), "size": len(b), "path": n, **lfs(n, b)} for n, b in files.items()
            ]
        return self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def file(self, dataset: str | None, repo: str, revision: str, file: str) -> None:
        name = f"{dataset or ''}{repo}"
        if name in self.hub.gated and self.headers.get("Authorization") != "Bearer hf_good":
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        body = self.hub.repos.get(name, {}).get(file)
        headers = {"X-Repo-Commit": self.commit_of(revision)}
        if body is None:
            return self.send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        large = lfs(file, body)
        tag = large["lfs"]["oid"] if large else sha1(body)
        return self.send(200, body, {**headers, "ETag": f'"{tag}"'})

    def plain(self, path: str) -> None:
        body = self.hub.plain[path]
        headers = {"ETag": f'"{sha1(body)}"'} if self.hub.tags else {}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, headers.get("ETag"))
        if start and same and self.hub.ranges:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            return self.send(206, body[first:], headers)
        return self.send(200, body, headers, self.hub.cut.pop(path, None))

    def send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def commit_of(self, revision: str) -> str:
        return revision if len(revision) == 40 else self.hub.commit


def lfs(name: str, body: bytes) -> dict[str, Any]:
    """Return the hub's entry of a large file (weights, Parquet), with its SHA-256; empty for other files."""
    digest = hashlib.sha256(body).hexdigest()
    large = name.endswith((".safetensors", ".parquet"))
    return {"lfs": {"oid": digest, "size": len(body), "pointerSize": 130}} if large else {}


def sha1(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
