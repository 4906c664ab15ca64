"""The real judge for tests, with the batch interface of an OpenAI-compatible address: files, batches, their results."""

from __future__ import annotations

import email
import email.policy
import json
import time
from typing import Any

from tests.helpers.json_server import JsonHandler
from tests.helpers.judge_server import Answer, Judge


class BatchJudge(Judge):
    """Keeps files and batches; a batch ends after `looks` looks at it, as `ends` says."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer, BatchHandler)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks = 2
        self.ends = "completed"

    def begin(self, wanted: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "created_at": int(time.time()), "status": "in_progress", "looks": 0,
            "output_file_id": None, "error_file_id": None, **wanted,
        }  # fmt: skip
        return self.batches[name]

    def look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["status"] == "in_progress" and batch["looks"] >= self.looks:
            batch["status"] = self.ends
            if self.ends in ("completed", "expired"):
                self._work(batch)
            else:
                batch["errors"] = {"object": "list", "data": [{"code": "x", "message": "the file is too large"}]}
        return batch

    def _work(self, batch: dict[str, Any]) -> None:
        good, bad = [], []
        for line in self.files[batch["input_file_id"]].decode().splitlines():
            request = json.loads(line)
            text = request["body"]["messages"][-1]["content"]
            self.requested[text] += 1
            self.requests.append(request["body"])
            status, payload, _ = self.answer(text, self.requested[text])
            response = {"status_code": status, "request_id": "r", "body": json.loads(payload)}
            (good if status == 200 else bad).append(
                json.dumps({"custom_id": request["custom_id"], "response": response})
            )
        for key, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[key] = f"{batch['id']}_{key}"
                self.files[batch[key]] = "\n".join(lines).encode()


class BatchHandler(JsonHandler):
    server: BatchJudge

    def do_POST(self) -> None:  # noqa: N802
        if self.path == "/v1/chat/completions":
            super().do_POST()
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            name = f"file_{len(self.server.files)}"
            self.server.files[name] = uploaded(self.headers["Content-Type"], body)
            self.say({"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"})
        else:
            self.say(self.server.begin(json.loads(body)))

    def do_GET(self) -> None:  # noqa: N802
        parts = self.path.partition("?")[0].split("/")[2:]
        if parts[0] == "files" and parts[1] in self.server.files:
            self.send(200, self.server.files[parts[1]], {"Content-Type": "application/jsonl"})
        elif len(parts) == 2 and parts[1] in self.server.batches:
            self.say(self.server.look(parts[1]))
        elif len(parts) >= 2:
            self.send(404, b'{"error": {"message": "no such batch"}}', {})
        else:
            self.say({"object": "list", "data": list(self.server.batches.values()), "has_more": False})

    def say(self, value: dict[str, Any]) -> None:
        self.send(200, json.dumps(value).encode(), {})


def uploaded(content_type: str, body: bytes) -> bytes:
    """The file in a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    form = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    return next(part.get_payload(decode=True) for part in form.iter_parts() if part.get_filename())
