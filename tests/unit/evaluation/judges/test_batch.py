"""The batch interface with a real server, and jobs that are killed while their batch runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rebend.errors import JudgeError
from rebend.evaluation.judges import batch
from rebend.evaluation.judges.win_rate.judge import judge_wins
from tests.helpers.batch_server import BatchJudge
from tests.helpers.judge_server import Answer, failure, judges_on_call
from tests.helpers.judged_rows import block, by_length, rows, verdicts

ROWS = rows(("long one", "short"), ("a", "longer"), ("same", "size"))
VERDICTS = [("win", None), ("lose", None), ("tie", None)]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], BatchJudge]]:
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.02)
    with judges_on_call(monkeypatch, BatchJudge) as start:
        yield start


def test_batch_gives_the_same_verdicts_as_single_requests(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    table, spent = judge_wins(block(server, batch=True), ROWS, tmp_path / "batch")
    assert verdicts(table) == VERDICTS and len(server.batches) == 1 and set(server.requested.values()) == {1}
    assert (spent.asked, spent.tokens_in, spent.tokens_out) == (6, 30, 12)
    single, _ = judge_wins(block(server), ROWS, tmp_path / "single")
    assert table.equals(single)
    kept = {path.name for path in (tmp_path / "batch").glob("??/*.json")}
    assert kept == {path.name for path in (tmp_path / "single").glob("??/*.json")}  # both use the same replies
    sent = [{key: body[key] for key in body if key not in ("key", "path")} for body in server.requests]
    assert sorted(map(json.dumps, sent[:6])) == sorted(map(json.dumps, sent[6:]))


def test_stored_replies_are_not_requested_again(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    judge_wins(block(server, batch=True), ROWS[:2], tmp_path)
    table, spent = judge_wins(block(server, batch=True), ROWS, tmp_path)
    assert verdicts(table) == VERDICTS and (spent.asked, spent.kept) == (2, 4)
    assert [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()] == [4, 2]
    judge_wins(block(server, batch=True), ROWS, tmp_path)
    assert len(server.batches) == 2


def test_failed_request_is_an_error_and_is_sent_again_by_the_next_run(serve: Any, tmp_path: Path) -> None:
    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        return failure(500) if "Question 0" in text else by_length(text, times)

    server = serve(answer)
    found = verdicts(judge_wins(block(server, batch=True), ROWS, tmp_path)[0])
    assert found[0][0] is None and (found[0][1] or "").startswith("error: status 500") and found[1:] == VERDICTS[1:]
    server.answer = by_length
    assert verdicts(judge_wins(block(server, batch=True), ROWS, tmp_path)[0]) == VERDICTS
    assert [count for text, count in server.requested.items() if "Question 1" in text] == [1, 1]


def test_failed_batch_raises_judge_error_and_the_next_run_starts_another(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    server.ends = "failed"
    for number in (1, 2):
        with pytest.raises(JudgeError, match=r"'failed' without a reply: the file is too large"):
            judge_wins(block(server, batch=True), ROWS, tmp_path)
        assert len(server.batches) == number
    server.ends = "completed"
    assert verdicts(judge_wins(block(server, batch=True), ROWS, tmp_path)[0]) == VERDICTS


def test_replies_of_an_expired_batch_are_used(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    server.ends = "expired"
    assert verdicts(judge_wins(block(server, batch=True), ROWS, tmp_path)[0]) == VERDICTS


KILLED = """
import json, sys
from rebend.evaluation.judges import batch
from rebend.config.judges import OpenAIJudgeBlock
from rebend.evaluation.judges.win_rate.judge import judge_wins
batch.FIRST_PAUSE = 0.02
judge_wins(OpenAIJudgeBlock(**json.loads(sys.argv[1])), json.load(open(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.parametrize("note", ["kept", "lost"])
def test_batch_is_used_again_after_its_job_was_killed(serve: Any, tmp_path: Path, note: str) -> None:
    server = serve(by_length)
    server.polls = 10**9
    judge, store = block(server, batch=True), tmp_path / "store"
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    command = [sys.executable, "-c", KILLED, judge.model_dump_json(), str(tmp_path / "rows.json"), str(store)]
    job = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(batch["polls"] for batch in server.batches.values()):
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait(timeout=20)
    if note == "lost":  # killed after the start of the batch and before its note
        for path in (store / "batches").glob("*.json"):
            path.unlink()
    server.polls = 0
    assert verdicts(judge_wins(judge, ROWS, store)[0]) == VERDICTS
    assert len(server.batches) == 1 and set(server.requested.values()) == {1}
    assert not list((store / "batches").glob("*.json"))


def test_note_of_an_unknown_batch_is_ignored(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    server.ends = "failed"
    with pytest.raises(JudgeError):
        judge_wins(block(server, batch=True), ROWS, tmp_path)
    server.batches.clear()
    server.ends, server.polls = "in_progress", 10**9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_wait", lambda client, batch: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            judge_wins(block(server, batch=True), ROWS, tmp_path)
    assert list((tmp_path / "batches").glob("*.json"))
    server.batches.clear()
    server.ends, server.polls = "completed", 1
    assert verdicts(judge_wins(block(server, batch=True), ROWS, tmp_path)[0]) == VERDICTS


def start_job(server: BatchJudge, tmp_path: Path, todo: Any, store: Path) -> subprocess.Popen:
    """Return a job that has started its batch and waits for it."""
    before = len(server.batches)
    file = tmp_path / f"rows{before}.json"
    file.write_text(json.dumps(todo))
    command = [sys.executable, "-c", KILLED, block(server, batch=True).model_dump_json(), str(file), str(store)]
    job = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((store / "batches").glob("*.json"))) == before:
        assert job.poll() is None
        time.sleep(0.01)
    return job


def test_jobs_with_common_requests_share_a_batch(serve: Any, tmp_path: Path) -> None:
    server, store = serve(by_length), tmp_path / "store"
    server.polls = 10**9
    jobs = [start_job(server, tmp_path, todo, store) for todo in (ROWS[:2], ROWS)]
    sizes = [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()]
    assert sizes == [4, 2]  # the second job starts a batch with the other requests
    server.polls = 0
    assert [job.wait(timeout=30) for job in jobs] == [0, 0]
    assert set(server.requested.values()) == {1} and len(list(store.glob("??/*.json"))) == 6


def test_killed_job_uses_the_remaining_replies_of_its_batch(serve: Any, tmp_path: Path) -> None:
    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        return failure(500) if "Question 1" in text and times == 1 else by_length(text, times)

    server, store = serve(answer), tmp_path / "store"
    server.polls = 10**9
    killed = start_job(server, tmp_path, ROWS, store)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=20)
    server.polls = 0
    assert verdicts(judge_wins(block(server, batch=True), ROWS[:1], store)[0]) == VERDICTS[:1]
    found = verdicts(judge_wins(block(server, batch=True), ROWS, store)[0])
    assert found == VERDICTS and len(server.batches) == 2  # one more batch for the failed requests only
    assert sorted(server.requested.values()) == [1] * 4 + [2] * 2
    assert not list((store / "batches").glob("*.json"))


def test_requests_with_deleted_results_are_sent_again(serve: Any, tmp_path: Path) -> None:
    server, store = serve(by_length), tmp_path / "store"
    server.polls = 10**9
    killed = start_job(server, tmp_path, ROWS, store)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=20)
    server.polls = 0
    server.poll("batch_0")
    del server.files["batch_0_output_file_id"]
    with pytest.raises(JudgeError, match="batch batch_0 ended as 'completed' without a reply"):
        judge_wins(block(server, batch=True), ROWS, store)
    server.batches["batch_0"]["created_at"] -= 30 * 24 * 3600
    assert verdicts(judge_wins(block(server, batch=True), ROWS, store)[0]) == VERDICTS


def test_reply_with_any_line_separator_of_unicode_is_one_line() -> None:
    replies = {f"key{number}": f"a{mark}b" for number, mark in enumerate("\u2028\u2029\x85\x0b\x0c\x1c")}
    lines = [
        json.dumps(
            {
                "custom_id": key,
                "response": {"status_code": 200, "body": {"choices": [{"message": {"content": text}}]}},
            },
            ensure_ascii=False,
        )
        for key, text in replies.items()
    ]
    content = SimpleNamespace(text="\r\n".join(lines) + "\n")
    client = SimpleNamespace(files=SimpleNamespace(content=lambda file: content))
    results = batch._results(client, SimpleNamespace(error_file_id=None, output_file_id="file"))
    assert {key: reply.choices[0].message.content for key, reply in results.items()} == replies
