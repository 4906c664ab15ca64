"""The client of a judge: failures and retries, stored replies, secrecy of the API key, and caps."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rebend.errors import DataError, JudgeError
from rebend.evaluation.judges.win_rate.judge import judge_wins
from rebend.evaluation.judges.win_rate.prompt import FORMS, LEGACY
from tests.helpers.judge_server import Answer, Judge, failure, judges_on_call, reply
from tests.helpers.judged_rows import block, by_length, by_length_in_json, rows, verdicts

ROWS = rows(("long one", "short"), ("a", "longer"))
VERDICTS = [("win", None), ("lose", None)]
SECRET = "sk-planted-5d1c77e0"
KILLED = """
import json, sys
from rebend.config.judges import OpenAIJudgeBlock
from rebend.evaluation.judges.win_rate.judge import judge_wins
judge_wins(OpenAIJudgeBlock(**json.loads(sys.argv[1])), json.load(open(sys.argv[2])), sys.argv[3])
"""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Judge]]:
    with judges_on_call(monkeypatch) as start:
        yield start


def job(tmp_path: Path, judge: Any, todo: Any, store: Path) -> subprocess.Popen:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(todo))
    command = [sys.executable, "-c", KILLED, judge.model_dump_json(), str(file), str(store)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_retry_waits_for_the_time_in_retry_after(serve: Any, tmp_path: Path) -> None:
    times: dict[str, list[float]] = {}

    def answer(text: str, count: int) -> tuple[int, bytes, dict[str, str]]:
        times.setdefault(text, []).append(time.monotonic())
        status, payload, _ = failure(429)
        return (status, payload, {"Retry-After": "1"}) if count == 1 else by_length(text, count)

    server = serve(answer)
    assert verdicts(judge_wins(block(server), ROWS[:1], tmp_path)[0]) == VERDICTS[:1]
    assert all(len(asked) == 2 and asked[1] - asked[0] >= 1 for asked in times.values())


def test_hanging_connection_times_out_and_is_retried(serve: Any, tmp_path: Path) -> None:
    done = threading.Event()

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        if times == 1:
            done.wait(20)
        return by_length(text, times)

    server = serve(answer)
    start = time.monotonic()
    assert verdicts(judge_wins(block(server, timeout=1), ROWS[:1], tmp_path)[0]) == VERDICTS[:1]
    assert 1 <= time.monotonic() - start < 10 and set(server.requested.values()) == {2}
    done.set()


def test_server_that_always_hangs_gives_errors_and_no_ties(serve: Any, tmp_path: Path) -> None:
    done = threading.Event()

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        if "Question 0" in text:
            done.wait(20)
        return by_length(text, times)

    table, _ = judge_wins(block(serve(answer), timeout=1, retries=0), ROWS, tmp_path)
    done.set()
    assert table["state"].to_pylist() == ["error", "lose"]
    assert table["not_scored"].to_pylist()[0].startswith("error: APITimeoutError")


def test_connection_closed_during_a_reply_is_retried(serve: Any, tmp_path: Path) -> None:
    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        status, payload, _ = by_length(text, times)
        cut = {"Content-Length": str(len(payload)), "Connection": "close"}
        return (status, payload[:40], cut) if times == 1 else (status, payload, {})

    server = serve(answer)
    assert verdicts(judge_wins(block(server), ROWS, tmp_path)[0]) == VERDICTS
    assert set(server.requested.values()) == {2}


def test_structured_form_sends_its_response_format_and_parses_verdicts(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length_in_json)
    table, _ = judge_wins(block(server, form="structured"), [*ROWS, *rows(("same", "size"))[:1]], tmp_path)
    assert table["state"].to_pylist() == ["win", "lose", "tie"]
    assert table["response_marks"].to_pylist() == [[1.0, 1.0], [0.0, 0.0], [0.5, 0.5]]
    asked = server.requests[0]["response_format"]["json_schema"]
    assert asked["strict"] and asked["schema"]["properties"]["verdict"]["enum"] == ["answer 1", "answer 2", "tie"]
    legacy = serve(by_length)
    judge_wins(block(legacy), ROWS, tmp_path)
    assert "response_format" not in legacy.requests[0]


@pytest.mark.parametrize(
    ("form", "message", "rejected", "sent"),
    [
        ("structured", "response_format is not supported", "response_format", "max_tokens"),
        ("legacy", "use 'max_completion_tokens' instead of 'max_tokens'", "max_tokens", "max_completion_tokens"),
    ],
)
def test_key_that_the_server_rejects_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str, message: str, rejected: str, sent: str
) -> None:
    server: Any = None
    reply_to = by_length_in_json if form == "structured" else by_length

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        body = next(body for body in reversed(server.requests) if body["messages"][1]["content"] == text)
        if rejected in body:
            return 400, json.dumps({"error": {"message": message}}).encode(), {}
        return reply_to(text, times)

    with judges_on_call(monkeypatch) as start:
        server = start(answer)
        assert verdicts(judge_wins(block(server, form=form), ROWS, tmp_path)[0]) == VERDICTS
        assert sent in server.requests[-1] and rejected not in server.requests[-1]
        assert max(server.requested.values()) == 2


def test_temperature_none_is_not_sent(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    judge_wins(block(server, temperature=None), ROWS, tmp_path)
    assert "temperature" not in server.requests[0]


def test_stored_replies_do_not_depend_on_study_or_row_order(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    judge_wins(block(server), ROWS, tmp_path)
    table, spent = judge_wins(
        block(server, concurrency=1, retries=0, timeout=9), [ROWS[1], *rows(("new", "x"))], tmp_path
    )
    assert set(server.requested.values()) == {1} and (spent.kept, spent.asked) == (2, 2)
    assert table["state"].to_pylist() == ["lose", "win"]


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"max_tokens": 9}, {"temperature": 1.0}, {"form": "structured"}]
)
def test_another_judge_or_form_needs_new_replies(serve: Any, tmp_path: Path, change: dict) -> None:
    server = serve(by_length)
    judge_wins(block(server), ROWS, tmp_path)
    judge_wins(block(server, **change), ROWS, tmp_path)
    assert set(server.requested.values()) == {2}


def test_address_from_the_environment_is_not_part_of_the_key(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = serve(by_length), serve(by_length)
    for server in (first, second):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        judge_wins(block(server, base_url=None), ROWS, tmp_path)
    assert sum(first.requested.values()) == 4 and not second.requested
    judge_wins(block(second), ROWS, tmp_path)  # an address in the block is another judge
    assert sum(second.requested.values()) == 4


def test_stored_reply_is_parsed_again_without_key_or_server(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda text, times: reply("first: 9, second: 2"))
    judge = block(server)
    assert judge_wins(judge, ROWS, tmp_path)[0]["state"].to_pylist() == ["unreadable"] * 2
    server.shutdown()
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setitem(FORMS, "legacy", replace(LEGACY, read=lambda reply, truncated: (9.0, 2.0)))
    table, spent = judge_wins(judge, ROWS, tmp_path)
    assert table["state"].to_pylist() == ["tie"] * 2 and spent.asked == 0
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()  # the fixture shuts it down


def test_stored_replies_are_private_and_contain_the_request(serve: Any, tmp_path: Path) -> None:
    judge = block(serve(by_length))
    judge_wins(judge, ROWS, tmp_path / "store")
    files = sorted((tmp_path / "store").glob("??/*.json"))
    assert len(files) == 4 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    kept = json.loads(files[0].read_text())
    assert kept["asked"]["model"] == "judge-2026-01-01" and "[Answer 1]" in kept["asked"]["question"]
    assert kept["reply"]["tokens_in"] == 5 and kept["reply"]["served_by"] == "m"
    files[0].write_text('{"reply": {"text": 1}}')
    with pytest.raises(DataError, match=files[0].name):
        judge_wins(judge, ROWS, tmp_path / "store")


def test_two_jobs_with_the_same_requests_pay_once(serve: Any, tmp_path: Path) -> None:
    def slow(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        time.sleep(0.2)
        return by_length(text, times)

    server, todo = serve(slow), rows(*[("a", "bb")] * 6)
    jobs = [job(tmp_path, block(server, concurrency=4), todo, tmp_path / "store") for _ in range(2)]
    assert [process.wait(timeout=60) for process in jobs] == [0, 0]
    assert len(server.requested) == 12 and set(server.requested.values()) == {1}


def test_only_running_requests_are_sent_again_after_sigkill(serve: Any, tmp_path: Path) -> None:
    release, todo, store = threading.Event(), rows(*[("a", "bb")] * 10), tmp_path / "store"

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        if sum(server.requested.values()) > 8:  # later requests hang, so that they are running when the job is killed
            release.wait(30)
        return by_length(text, times)

    server = serve(answer)
    judge = block(server, concurrency=2)
    killed = job(tmp_path, judge, todo, store)
    while len(list(store.glob("??/*.json"))) < 8 or sum(server.requested.values()) < 10:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=20)
    release.set()
    table, spent = judge_wins(judge, todo, store)
    assert verdicts(table) == [("lose", None)] * 10 and (spent.kept, spent.asked) == (8, 12)
    assert sorted(server.requested.values()) == [1] * 18 + [2] * 2  # two requests were never answered


def test_api_key_is_in_no_file_and_no_message(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server repeats the key in replies, refusals and error messages."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    error = json.dumps({"error": {"message": f"Incorrect key: Bearer {SECRET}"}}).encode()

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        if "Question 0" in text:
            return 422, error, {}
        return reply(f"5 5\nYour key is {SECRET}") if "Question 1" in text else reply("", refusal=f"not with {SECRET}")

    server = serve(answer)
    table, _ = judge_wins(block(server), rows(*[("a", "b")] * 3), tmp_path / "store")
    assert server.requests[0]["key"] == f"Bearer {SECRET}"
    assert table["state"].to_pylist() == ["error", "tie", "refused"] and "[the key]" in str(table.to_pylist())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4 and SECRET not in str(table.to_pylist())
    assert not [path for path in files if SECRET in path.read_text()]
    server.answer = lambda text, times: (401, error, {})
    with pytest.raises(JudgeError, match=r"cannot be asked.*\[the key\]") as raised:
        judge_wins(block(server), rows(("c", "d")), tmp_path / "store")
    assert raised.value.__cause__ is None and raised.value.__suppress_context__  # a traceback would print the cause


def test_cap_below_the_estimate_raises_before_the_first_request(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    server = serve(by_length)
    prices = {"price_in": 30.0, "price_out": 60.0, "max_tokens": 1000}
    with pytest.raises(JudgeError, match=r"nothing was sent: 4 requests .* 0\.257 is above max_cost 0\.2\. Raise"):
        judge_wins(block(server, max_cost=0.2, **prices), ROWS, tmp_path)
    with pytest.raises(JudgeError, match=r"tokens are above max_tokens_total 4100"):
        judge_wins(block(server, max_tokens_total=4100, **prices), ROWS, tmp_path)
    assert not server.requested
    output = capsys.readouterr().out
    assert "4 questions, 0 answered before, 4 to send" in output and "cost at most about 0.257" in output
    _, spent = judge_wins(block(server, max_cost=0.3, **prices), ROWS, tmp_path)
    assert spent.facts()["cost"] == pytest.approx((20 * 30 + 8 * 60) / 1e6)
    judge_wins(block(server, max_cost=0.2, **prices), ROWS, tmp_path)  # all replies are stored, so nothing is paid


def test_cap_stops_a_run_above_the_estimate_and_paid_replies_are_stored(serve: Any, tmp_path: Path) -> None:
    def long_reply(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        status, payload, headers = by_length(text, times)
        body = json.loads(payload)
        body["usage"] = {"prompt_tokens": 900, "completion_tokens": 900, "total_tokens": 1800}
        return status, json.dumps(body).encode(), headers

    server = serve(long_reply)
    judge = block(server, max_tokens_total=9000, max_tokens=1, concurrency=1)
    with pytest.raises(JudgeError, match=r"stopped after 6 replies, which are stored: 10800 tokens"):
        judge_wins(judge, rows(*[("a", "b")] * 15), tmp_path)
    assert sum(server.requested.values()) <= 7 and len(list(tmp_path.glob("??/*.json"))) == sum(
        server.requested.values()
    )


def test_replies_without_usage_are_counted_as_uncounted(serve: Any, tmp_path: Path) -> None:
    def without_usage(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        status, payload, headers = by_length(text, times)
        body = {key: value for key, value in json.loads(payload).items() if key != "usage"}
        return status, json.dumps(body).encode(), headers

    _, spent = judge_wins(block(serve(without_usage)), ROWS, tmp_path)
    assert spent.facts() == {
        "asked": 4, "kept_before": 0, "tokens_in": 0, "tokens_out": 0, "uncounted": 4, "cost": None
    }  # fmt: skip
