"""A judge for tests with OpenAI's batch interface: files, batches and their results."""

from __future__ import annotations

import email
import email.policy
import json
import time
from typing import Any

from tests.helpers.json_server import JsonHandler
from tests.helpers.judge_server import Answer, Judge


class BatchJudge(Judge):
    """Stores files and batches. A batch gets the status `ends` when it is polled `polls` times."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer, BatchHandler)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls = 2
        self.ends = "completed"

    def begin(self, settings: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "created_at": int(time.time()), "status": "in_progress", "polls": 0,
            "output_file_id": None, "error_file_id": None, **settings,
        }  # fmt: skip
        return self.batches[name]

    def poll(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["polls"] += 1
        if batch["status"] == "in_progress" and batch["polls"] >= self.polls:
            batch["status"] = self.ends
            if self.ends in ("completed", "expired"):
                self._work(batch)
            else:
                batch["errors"] = {"object": "list", "data": [{"code": "x", "message": "the file is too large"}]}
        return batch

    def _work(self, batch: dict[str, Any]) -> None:
        results, errors = [], []
        for line in self.files[batch["input_file_id"]].decode().strip().split("\n"):
            request = json.loads(line)
            text = request["body"]["messages"][-1]["content"]
            self.requested[text] += 1
            self.requests.append(request["body"])
            status, payload, _ = self.answer(text, self.requested[text])
            response = {"status_code": status, "request_id": "r", "body": json.loads(payload)}
            (results if status == 200 else errors).append(
                json.dumps({"custom_id": request["custom_id"], "response": response})
            )
        for key, lines in (("output_file_id", results), ("error_file_id", errors)):
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
            self.send_value(
                {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
            )
        else:
            self.send_value(self.server.begin(json.loads(body)))

    def do_GET(self) -> None:  # noqa: N802
        parts = self.path.partition("?")[0].split("/")[2:]
        if parts[0] == "files" and parts[1] in self.server.files:
            self.send(200, self.server.files[parts[1]], {"Content-Type": "application/jsonl"})
        elif len(parts) == 2 and parts[1] in self.server.batches:
            self.send_value(self.server.poll(parts[1]))
        elif len(parts) >= 2:
            self.send(404, b'{"error": {"message": "no such batch"}}', {})
        else:
            self.send_value({"object": "list", "data": list(self.server.batches.values()), "has_more": False})

    def send_value(self, value: dict[str, Any]) -> None:
        self.send(200, json.dumps(value).encode(), {})


def uploaded(content_type: str, body: bytes) -> bytes:
    """Return the file in a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    form = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    return next(part.get_payload(decode=True) for part in form.iter_parts() if part.get_filename())
