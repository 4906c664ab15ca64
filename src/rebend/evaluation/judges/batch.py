"""Asking a judge by the batch interface of its address: a file of requests goes up, a file of replies comes down.

A batch that was begun goes on without us. Its id is kept, and its digest goes with it, so that a job that was ended
in between finds it again and does not begin (and pay for) another; nor does a job that wants some of the same replies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rebend.errors import JudgeError
from rebend.evaluation.judges.replies import without_key
from rebend.evaluation.judges.reply_store import digest_of, write_private_json
from rebend.io.files import read_json
from rebend.io.locks import locked

ENDPOINT = "/v1/chat/completions"
MOST = 10_000  # requests in one batch: OpenAI takes 50,000, and 200 MB
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # between two looks at a batch, seconds
_UNDER_WAY = ("validating", "in_progress", "finalizing")
_ENDED = ("completed", "failed", "expired", "cancelled")
_MARK = "rebend"  # key of a batch's metadata that holds the digest of its requests
_DAYS = 7  # as old as such a batch may be
_LOOK_BACK = 200  # batches of the account that are looked through for a lost one


def ask_by_batch(
    asked: Any, bodies: Mapping[str, Mapping[str, Any]], folder: str | Path, keep: Callable[[str, Any], None]
) -> None:
    """Give `keep` for each key of `bodies` (requests, at most `MOST`) its completion, or in words why there is none.

    `asked` is a client of the package `openai`; `folder` has a note of each batch that is under way, so that jobs
    with a request in common share its reply. A key that the batches say nothing of is left out. Raises `JudgeError`
    if the address takes no batches, or if a batch ends without a single reply.
    """
    import openai

    notes = Path(folder)
    try:
        with locked(notes / ".lock", announce=False, private=True):
            batches = _batches_of(asked, bodies, notes)
        for note, begun in batches.items():
            batch = _wait(asked, begun)
            found = _results(asked, batch)
            for key in bodies.keys() & found.keys():
                keep(key, found[key])
            with locked(notes / ".lock", announce=False, private=True):
                _tidy(note, {key for key, came in found.items() if not isinstance(came, str)} - bodies.keys())
            if not found:
                raise JudgeError(f"batch {batch.id} ended as '{batch.status}' without a reply: {_complaints(batch)}")
    except openai.OpenAIError as error:
        said = f"{type(error).__name__}: {without_key(str(error))}"
        raise JudgeError(f"the batch of {len(bodies)} requests: {said}") from None


def _batches_of(asked: Any, bodies: Mapping[str, Mapping[str, Any]], notes: Path) -> dict[Path, Any]:
    """Note -> batch, of those under way that have some of the requests, and of one that has the rest."""
    found, missing = {}, dict(bodies)
    for note in sorted(notes.glob("*.json")):
        said = read_json(note)
        if (shared := missing.keys() & set(said["keys"])) and (batch := _seen(asked, said["batch"])) is not None:
            found[note] = batch
            missing = {key: body for key, body in missing.items() if key not in shared}
    if missing:
        digest = digest_of(missing)
        batch = _lost(asked, digest) or _begin(asked, missing, digest)
        note = notes / f"{digest}.json"
        write_private_json(note, {"batch": batch.id, "keys": sorted(missing)})
        found[note] = batch
    return found


def _tidy(note: Path, left: set[str]) -> None:
    """Leave in a note only keys that have replies which others may still want; what failed is asked anew."""
    if not note.exists():
        return
    said = read_json(note)
    if keys := sorted(left & set(said["keys"])):
        write_private_json(note, {**said, "keys": keys})
    else:
        note.unlink()


def _seen(asked: Any, name: str) -> Any | None:
    """A batch by its id, unless it came to nothing or belongs to another account."""
    import openai

    try:
        batch = asked.batches.retrieve(name)
    except openai.NotFoundError:
        return None
    return batch if _hopeful(batch) else None


def _lost(asked: Any, digest: str) -> Any | None:
    """A batch of these very requests whose job ended before it could note it; an old one may lack its files."""
    oldest = time.time() - _DAYS * 24 * 3600
    for seen, batch in enumerate(asked.batches.list(limit=100)):
        if (batch.metadata or {}).get(_MARK) == digest and batch.created_at > oldest and _hopeful(batch):
            return batch
        if seen + 1 >= _LOOK_BACK:
            break
    return None


def _hopeful(batch: Any) -> bool:
    """Tell whether a batch has replies, or will have."""
    return batch.output_file_id is not None or batch.status in _UNDER_WAY


def _begin(asked: Any, bodies: Mapping[str, Mapping[str, Any]], digest: str) -> Any:
    lines = [
        json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": dict(body)})
        for key, body in bodies.items()
    ]
    file = asked.files.create(file=("requests.jsonl", "\n".join(lines).encode() + b"\n"), purpose="batch")
    return asked.batches.create(
        completion_window="24h", endpoint=ENDPOINT, input_file_id=file.id, metadata={_MARK: digest}
    )


def _wait(asked: Any, batch: Any) -> Any:
    """Look at the batch, ever more rarely, until it has ended."""
    pause = FIRST_PAUSE
    while batch.status not in _ENDED:
        counts = batch.request_counts
        done = f", {counts.completed + counts.failed} of {counts.total} done" if counts else ""
        print(f"judge: batch {batch.id} is {batch.status}{done}", flush=True)
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, 1.5 * pause)
        batch = asked.batches.retrieve(batch.id)
    return batch


def _results(asked: Any, batch: Any) -> dict[str, Any]:
    """What the two files of an ended batch (replies, errors) say of each request."""
    import openai

    found: dict[str, Any] = {}
    for file in filter(None, (batch.error_file_id, batch.output_file_id)):
        try:
            lines = asked.files.content(file).text.splitlines()
        except openai.NotFoundError:  # addresses delete them after some weeks
            continue
        for line in lines:
            key, result = _result(line)
            if key is not None:
                found[key] = result
    return found


def _result(line: str) -> tuple[str | None, Any]:
    """The request's key, and its completion or what went wrong; no key if the line cannot be read."""
    from openai.types.chat import ChatCompletion

    try:
        said = json.loads(line)
        response = said.get("response") or {}
        if response.get("status_code") == 200:
            return said["custom_id"], ChatCompletion.construct(**response["body"])
        return said["custom_id"], f"status {response.get('status_code')}: {said.get('error') or response.get('body')}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, None


def _complaints(batch: Any) -> str:
    """What the address says of a batch that came to nothing."""
    problems = batch.errors.data if batch.errors and batch.errors.data else []
    return without_key("; ".join(str(problem.message) for problem in problems)) or "no reason given"
