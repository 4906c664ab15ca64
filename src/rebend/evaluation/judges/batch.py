"""Send judge requests by the batch interface of an address: upload a file of requests, download a file of replies.

A batch continues at the address after its job ends. Its id is in a note and the digest of its requests is in its
metadata, so that neither a restarted job nor a job with some of the same requests starts and pays for another batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rebend.errors import JudgeError
from rebend.evaluation.judges.replies import Rejected, without_key
from rebend.evaluation.judges.reply_store import digest_of, write_private_json
from rebend.io.address_errors import concerns_one_text, own_reason
from rebend.io.files import read_json
from rebend.io.locks import locked

ENDPOINT = "/v1/chat/completions"
MOST = 10_000  # requests in one batch; OpenAI accepts 50,000 requests and 200 MB
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # between two queries of a batch, seconds
_UNDER_WAY = ("validating", "in_progress", "finalizing")
_ENDED = ("completed", "failed", "expired", "cancelled")
_MARK = "rebend"  # key of a batch's metadata that holds the digest of its requests
_READ = "read/ids.json"
_DAYS = 7  # maximum age of a batch that is used again
_LOOK_BACK = 200  # number of newest batches of the account in the search for a batch without a note


def ask_by_batch(
    client: Any, bodies: Mapping[str, Mapping[str, Any]], folder: str | Path, keep: Callable[[str, Any], None]
) -> None:
    """Call `keep` with each key of `bodies` (at most `MOST` requests) and its completion or `Rejected`.

    `client` is a client of the package `openai`; `folder` holds a note of each running batch, so that jobs with a
    common request share its reply. Keys without a result in the batches are left out. Raises `JudgeError` if the
    address has no batch interface, or if a batch ends without any reply.
    """
    import openai

    notes = Path(folder)
    try:
        with locked(notes / ".lock", announce=False, private=True):
            batches = _batches_of(client, bodies, notes)
        for note, started in batches.items():
            batch = _wait(client, started)
            results = _results(client, batch)
            for key in bodies.keys() & results.keys():
                keep(key, results[key])
            with locked(notes / ".lock", announce=False, private=True):
                write_private_json(notes / _READ, sorted({*_read_before(notes), batch.id}))
                answered = {key for key, result in results.items() if not isinstance(result, Rejected)}
                _tidy(note, answered - bodies.keys())
            if not results:
                raise JudgeError(f"batch {batch.id} ended as '{batch.status}' without a reply: {_errors(batch)}")
    except openai.OpenAIError as error:
        reason = f"{type(error).__name__}: {without_key(str(error))}"
        raise JudgeError(f"the batch of {len(bodies)} requests: {reason}") from None


def _batches_of(client: Any, bodies: Mapping[str, Mapping[str, Any]], notes: Path) -> dict[Path, Any]:
    """Return note -> batch: running batches with some of the requests, and a batch with the rest."""
    batches, missing = {}, dict(bodies)
    for note in sorted(notes.glob("*.json")):
        kept = read_json(note)
        if (shared := missing.keys() & set(kept["keys"])) and (batch := _retrieved(client, kept["batch"])) is not None:
            batches[note] = batch
            missing = {key: body for key, body in missing.items() if key not in shared}
    if missing:
        digest = digest_of(missing)
        batch = _without_note(client, digest, _read_before(notes)) or _create(client, missing, digest)
        note = notes / f"{digest}.json"
        write_private_json(note, {"batch": batch.id, "keys": sorted(missing)})
        batches[note] = batch
    return batches


def _tidy(note: Path, remaining: set[str]) -> None:
    """Remove all keys from a note except `remaining`, whose replies other jobs may need; delete an empty note."""
    if not note.exists():
        return
    content = read_json(note)
    if keys := sorted(remaining & set(content["keys"])):
        write_private_json(note, {**content, "keys": keys})
    else:
        note.unlink()


def _retrieved(client: Any, name: str) -> Any | None:
    """Return a batch by its id; None if it has no result or belongs to another account."""
    import openai

    try:
        batch = client.batches.retrieve(name)
    except openai.NotFoundError:
        return None
    return batch if _has_result(batch) else None


def _read_before(notes: Path) -> list[str]:
    """Return the ids of batches whose results were read: a request of theirs without a reply needs another batch."""
    path = notes / _READ
    return list(read_json(path)) if path.exists() else []


def _without_note(client: Any, digest: str, read: Collection[str]) -> Any | None:
    """Return a recent batch of the same requests that has no note, because its job was killed; None without one.

    Batches in `read` are left out.
    """
    oldest = time.time() - _DAYS * 24 * 3600
    for index, batch in enumerate(client.batches.list(limit=100)):
        same = (batch.metadata or {}).get(_MARK) == digest and batch.id not in read
        if same and batch.created_at > oldest and _has_result(batch):
            return batch
        if index + 1 >= _LOOK_BACK:
            break
    return None


def _has_result(batch: Any) -> bool:
    """Return whether a batch has replies or is still running."""
    return batch.output_file_id is not None or batch.status in _UNDER_WAY


def _create(client: Any, bodies: Mapping[str, Mapping[str, Any]], digest: str) -> Any:
    lines = [
        json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": dict(body)})
        for key, body in bodies.items()
    ]
    file = client.files.create(file=("requests.jsonl", "\n".join(lines).encode() + b"\n"), purpose="batch")
    return client.batches.create(
        completion_window="24h", endpoint=ENDPOINT, input_file_id=file.id, metadata={_MARK: digest}
    )


def _wait(client: Any, batch: Any) -> Any:
    """Query the batch with growing pauses until it ends, and return it."""
    pause = FIRST_PAUSE
    while batch.status not in _ENDED:
        counts = batch.request_counts
        done = f", {counts.completed + counts.failed} of {counts.total} done" if counts else ""
        print(f"judge: batch {batch.id} is {batch.status}{done}", flush=True)
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, 1.5 * pause)
        batch = client.batches.retrieve(batch.id)
    return batch


def _results(client: Any, batch: Any) -> dict[str, Any]:
    """Return the result of each request, from the two files (replies, errors) of an ended batch."""
    import openai

    results: dict[str, Any] = {}
    for file in filter(None, (batch.error_file_id, batch.output_file_id)):
        try:
            # JSON may contain other line separators of Unicode (U+2028, U+0085) inside a text.
            lines = client.files.content(file).text.split("\n")
        except openai.NotFoundError:  # addresses delete result files after some weeks
            continue
        for line in filter(str.strip, lines):
            key, result = _result(line)
            if key is not None:
                results[key] = result
    return results


def _result(line: str) -> tuple[str | None, Any]:
    """Return a request's key and its completion or `Rejected`; no key if the line cannot be parsed."""
    from openai.types.chat import ChatCompletion

    try:
        content = json.loads(line)
        key, response = content["custom_id"], content.get("response") or {}
        status, body = int(response.get("status_code") or 0), response.get("body")
        if status == 200 and isinstance(body, Mapping):
            return key, ChatCompletion.construct(**body)
        error = content.get("error") or body
        code, reason = own_reason({"error": error} if isinstance(error, Mapping) and "error" not in error else error)
        state = concerns_one_text(status, json.dumps(error)) or "error"
        return key, Rejected(status or None, f"status {status}: {reason or error}", code, state)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, None


def _errors(batch: Any) -> str:
    """Return the error messages of a batch without results."""
    problems = batch.errors.data if batch.errors and batch.errors.data else []
    return without_key("; ".join(str(problem.message) for problem in problems)) or "no reason given"
