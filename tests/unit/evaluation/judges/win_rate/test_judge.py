"""Win-rate judges with a real server and the real client: verdicts, states, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.config.judges import JudgeBlock, RewardModelJudgeBlock
from rebend.errors import JudgeError
from rebend.evaluation.judges.win_rate.judge import draw, judge_wins
from rebend.evaluation.judges.win_rate.openai import response_is_first
from rebend.evaluation.judges.win_rate.statistics import win_rates
from tests.helpers.judge_server import Answer, Judge, failure, judges_on_call, reply
from tests.helpers.judged_rows import answers, block, by_length, rows, verdicts


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Judge]]:
    with judges_on_call(monkeypatch) as start:
        yield start


def judged(settings: JudgeBlock, *arguments: Any) -> pa.Table:
    return judge_wins(settings, *arguments)[0]


def flip_rate(table: pa.Table) -> float | None:
    return win_rates(table).flip_rate.estimate


def test_each_pair_is_judged_in_both_orders(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    table = judged(block(server), rows(("long one", "short"), ("a", "longer"), ("same", "size")), tmp_path)
    assert verdicts(table) == [("win", None), ("lose", None), ("tie", None)]
    assert sum(server.requested.values()) == 6 and max(server.requested.values()) == 1
    assert table["response_marks"].to_pylist()[0] == [8.0, 8.0] and table["reference_marks"].to_pylist()[0] == [
        5.0,
        5.0,
    ]
    assert table["replies"].to_pylist()[0] == ["8 5\nThe longer one.", "5 8\nThe longer one."]
    assert table["tokens_in"].to_pylist() == [10, 10, 10] and table["tokens_out"].to_pylist() == [4, 4, 4]
    assert flip_rate(table) == 0.0


def test_in_one_order_each_row_is_asked_once_with_a_side_drawn_from_seed_and_row(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    pairs = [("long answer", "short") if i % 2 else ("tiny", "a longer one") for i in range(12)]
    one = block(server, orders="one")
    table = judged(one, rows(*pairs), tmp_path)
    assert len(server.requests) == 12
    assert [state for state, _ in verdicts(table)] == ["win" if i % 2 else "lose" for i in range(12)]
    sides = [response_is_first(one, row) for row in rows(*pairs)]
    assert 3 <= sum(sides) <= 9
    assert sides != [response_is_first(block(server, orders="one", seed=1), row) for row in rows(*pairs)]
    asked = {answers(question_of(request)) for request in server.requests}
    assert asked == {pair if first else pair[::-1] for pair, first in zip(pairs, sides, strict=True)}
    first_mark = next(iter(table.to_pylist()))
    assert first_mark["response_marks"] == [4.0] and first_mark["reference_marks"] == [10.0]
    assert flip_rate(table) is None
    always_first = serve(lambda text, times: reply("9 2"))
    biased = judged(block(always_first, orders="one"), rows(*pairs), tmp_path / "biased")
    assert [v == "win" for v, _ in verdicts(biased)] == sides
    refused = serve(lambda text, times: reply("no marks here"))
    unread = judged(block(refused, orders="one"), rows(*pairs[:2]), tmp_path / "unread")
    assert unread["state"].to_pylist() == ["unreadable"] * 2 and unread["verdict"].null_count == 2


def test_own_words_take_the_place_of_ours(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda text, times: reply("7 4"))
    question = "Q {prompt}\nfirst {answer1}\nsecond {answer2} {other}"
    own = block(server, orders="one", system="You mark answers.", question=question)
    judged(own, rows(("{answer2}", "b")), tmp_path)
    (request,) = server.requests
    system, user = (message["content"] for message in request["messages"])
    expected = ("{answer2}", "b") if response_is_first(own, {"row_id": "r0"}) else ("b", "{answer2}")
    assert (system, user) == (
        "You mark answers.",
        f"Q Question 0?\nfirst {expected[0]}\nsecond {expected[1]} {{other}}",
    )
    with pytest.raises(ValueError, match=r"`question` has no \{answer1\} and no \{answer2\}"):
        block(server, question="{prompt}")
    with pytest.raises(ValueError, match="`system` is for `form: legacy`"):
        block(server, form="structured", system="x")


def question_of(request: dict[str, Any]) -> str:
    """Return the user message of a request."""
    return str(request["messages"][-1]["content"])


def test_equal_questions_are_sent_once(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    todo = [{**row, "row_id": str(i)} for i, row in enumerate(rows(("same", "same")) * 4)]
    assert verdicts(judged(block(server), todo, tmp_path)) == [("tie", None)] * 4
    assert sum(server.requested.values()) == 1


def test_request_contains_the_settings(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    judged(block(server, max_tokens=77), rows(("a", "b")), tmp_path)
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-2026-01-01", 0, 77)
    assert body["key"] == "Bearer key-of-the-test" and body["path"] == "/v1/chat/completions"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "Question 0?" in body["messages"][1]["content"]


def test_judge_that_prefers_the_first_answer_gives_ties_and_flip_rate_one(serve: Any, tmp_path: Path) -> None:
    table = judged(block(serve(lambda text, times: reply("9 2"))), rows(("a", "b"), ("c", "d")), tmp_path)
    assert verdicts(table) == [("tie", None)] * 2
    assert flip_rate(table) == 1.0


def test_requests_to_busy_and_failing_servers_are_retried(serve: Any, tmp_path: Path) -> None:
    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        return failure(429) if times == 1 else failure(500) if times == 2 else by_length(text, times)

    server = serve(answer)
    assert verdicts(judged(block(server), rows(("long one", "short")), tmp_path)) == [("win", None)]
    assert set(server.requested.values()) == {3}


def test_permanent_failure_is_an_error_and_is_sent_again_by_the_next_run(serve: Any, tmp_path: Path) -> None:
    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        return failure(500) if "Question 0" in text else by_length(text, times)

    server = serve(answer)
    judge = block(server, retries=1)
    first = verdicts(judged(judge, rows(("a", "bb"), ("a", "bb")), tmp_path))
    assert first[0][0] is None and first[0][1] is not None and first[0][1].startswith("error: InternalServerError")
    assert first[1] == ("lose", None)
    server.answer = by_length
    assert verdicts(judged(judge, rows(("a", "bb"), ("a", "bb")), tmp_path)) == [("lose", None)] * 2
    assert [count for text, count in server.requested.items() if "Question 1" in text] == [1, 1]


def test_judge_without_any_answer_raises_judge_error(serve: Any, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="none of 2 questions"):
        judged(block(serve(lambda text, times: failure(500)), retries=0), rows(("a", "b")), tmp_path)


@pytest.mark.parametrize(("status", "code"), [(401, "x"), (403, "x"), (404, "x"), (429, "insufficient_quota")])
def test_refused_key_model_or_credit_raises_judge_error(serve: Any, tmp_path: Path, status: int, code: str) -> None:
    server = serve(lambda text, times: failure(status, code))
    with pytest.raises(JudgeError, match="cannot be asked"):
        judged(block(server, retries=0, concurrency=1), rows(*[("a", "b")] * 20), tmp_path)
    assert sum(server.requested.values()) < 10


def test_missing_api_key_raises_before_the_first_request(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(by_length)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(JudgeError, match="OPENAI_API_KEY"):
        judged(block(server), rows(("a", "b")), tmp_path)
    assert not server.requested


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (reply("Both are lovely."), "unreadable: no two marks"),
        (reply("11 3"), "unreadable"),
        (reply("0 0"), "unreadable"),
        (reply(""), "unreadable"),
        (reply("8 1", "length"), "unreadable: truncated"),
        (reply("I'm sorry, I cannot judge these."), "refused"),
        (reply("", "content_filter"), "refused: content filter"),
        (reply("", refusal="I will not."), "refused: I will not."),
    ],
)
def test_replies_without_marks_are_refused_or_unreadable(serve: Any, tmp_path: Path, answer: Any, state: str) -> None:
    def sometimes(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        return answer if "[Answer 1]\nours" in text else reply("5 5")

    table = judged(block(serve(sometimes)), rows(("ours", "theirs")), tmp_path)
    ((verdict, why),) = verdicts(table)
    assert verdict is None and why is not None and why.startswith(state)
    assert table["replies"].to_pylist()[0][1] == "5 5"  # raw replies are stored, parsed or not
    assert flip_rate(table) is None


@pytest.mark.parametrize(
    "broken",
    [
        (200, b'{"choices": [{"mess', {}),
        (200, b"<html>busy</html>", {"Content-Type": "text/html"}),
        (200, b"{}", {}),
        (200, b'{"choices": []}', {}),
        (200, b'{"cho', {"Content-Length": "500"}),
    ],
)
def test_damaged_body_is_an_error_and_no_tie(serve: Any, tmp_path: Path, broken: Any) -> None:
    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        return broken if "Question 0" in text else reply("5 5")

    found = verdicts(judged(block(serve(answer), retries=1), rows(("a", "b"), ("a", "b")), tmp_path))
    assert found[0][0] is None and found[0][1] is not None and found[0][1].startswith("error")
    assert found[1] == ("tie", None)


def test_number_of_simultaneous_requests_is_limited(serve: Any, tmp_path: Path) -> None:
    def slow(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        time.sleep(0.05)
        return reply("5 5")

    server = serve(slow)
    judged(block(server, concurrency=3), rows(*[("a", "b")] * 12), tmp_path)
    assert server.most_running == 3


KILLED = """
import sys, json
from rebend.config.judges import OpenAIJudgeBlock
from rebend.evaluation.judges.win_rate.judge import judge_wins
rows = json.load(open(sys.argv[2]))
judge_wins(OpenAIJudgeBlock(**json.loads(sys.argv[1])), rows, sys.argv[3])
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_stored_replies_are_not_paid_again_after_a_kill(serve: Any, tmp_path: Path, sent: signal.Signals) -> None:
    def slow(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        time.sleep(0.1)
        return by_length(text, times)

    server = serve(slow)
    judge, todo, kept = block(server, concurrency=2), rows(*[("a", "bb")] * 15), tmp_path / "kept"
    (tmp_path / "rows.json").write_text(json.dumps(todo))
    command = [sys.executable, "-c", KILLED, judge.model_dump_json(), str(tmp_path / "rows.json"), str(kept)]
    job = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
    while sum(server.requested.values()) < 8:
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(sent)
    assert job.wait(timeout=20) != 0
    paid = len(list(kept.glob("??/*.json")))
    assert 4 <= paid < 30
    before = sum(server.requested.values())
    assert verdicts(judged(judge, todo, kept)) == [("lose", None)] * 15
    assert sum(server.requested.values()) - before == 30 - paid  # stored replies are used again
    if sent == signal.SIGTERM:  # running requests were completed, so that none was paid twice
        assert set(server.requested.values()) == {1}


def test_drawn_rows_depend_on_ids_and_seed_only() -> None:
    todo = rows(*[("a", "b")] * 50)
    ids = {row["row_id"] for row in draw(todo, 10, 3)}
    assert len(ids) == 10 and ids == {row["row_id"] for row in draw(todo[::-1], 10, 3)}
    assert ids != {row["row_id"] for row in draw(todo, 10, 4)}
    assert draw(todo, None, 0) == draw(todo, 50, 0) == todo


def test_rows_without_reference_or_response_are_not_judged(serve: Any, tmp_path: Path) -> None:
    server = serve(by_length)
    todo = rows(("a", None), ("a", "bb"))
    todo += [{**todo[1], "row_id": "r2", "response": None}]
    for judge, scores in [
        (block(server), None),
        (RewardModelJudgeBlock(method="reward_model", reward="x"), {"r0": 1.0, "r1": 1.0}),
    ]:
        found = verdicts(judged(judge, todo, tmp_path, scores, {"r1": 2.0}))
        assert found == [(None, "no reference"), ("lose", None), (None, "no response")]
    assert all("Question 1" in text for text in server.requested)
