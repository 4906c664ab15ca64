"""Replies as addresses really send them: each has its state, and only lasting ones are stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rebend.errors import JudgeError
from rebend.evaluation.judges import batch, client
from rebend.evaluation.judges.endings import ending_of
from rebend.evaluation.judges.win_rate.judge import judge_wins
from tests.helpers.batch_server import BatchJudge
from tests.helpers.judge_server import Answer, judges_on_call, reply
from tests.helpers.judged_rows import block, by_length, by_length_in_json, rows

ONE = rows(("long one", "short"))
OBJECT = '{"reasons": "r", "verdict": "answer 1"}'
THOUGHT = '<think>Perhaps {"verdict": "tie"}, or 5 5?</think>'
OPENROUTER = {"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "upstream is down"}}}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], BatchJudge]]:
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    with judges_on_call(monkeypatch, BatchJudge) as start:
        yield start


def raw(body: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(body).encode(), {}


def with_body(**changes: Any) -> tuple[int, bytes, dict[str, str]]:
    return raw({**json.loads(reply("8 5\nwhy")[1]), **changes})


def content(value: Any, finish: Any = "stop") -> tuple[int, bytes, dict[str, str]]:
    return reply(value, finish)


def outcome(table: Any) -> tuple[str, str | None]:
    (row,) = table.to_pylist()
    return row["state"], row["not_scored"]


def both_ways(serve: Any, tmp_path: Path, answer: Any, **changes: Any) -> list[tuple[str, str | None]]:
    """Return state and reason with single requests and with a batch; the other order always gets `answer` too."""
    found = []
    for by_batch in (False, True):
        server = serve(lambda text, times: answer)
        try:
            table, _ = judge_wins(block(server, batch=by_batch, retries=0, **changes), ONE, tmp_path / str(by_batch))
            found.append(outcome(table))
        except JudgeError as error:
            found.append(("error", str(error)))
    return found


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "5 5"}]},
    {"type": "text", "text": "9 3\n", "thought": True},
    {"type": "text", "text": "8 "},
    {"type": "text", "text": "8\nThey are alike."},
]
READ = [  # one reply to both orders: equal marks are a tie, unequal ones differ in the two orders and are a tie too
    ("legacy", content(PARTS)),
    ("legacy", content({"type": "text", "text": "8 8"})),
    ("legacy", content(["8 8", "\nwhy"])),
    ("legacy", content(f"{THOUGHT}\n\n8 7\nwhy")),
    ("legacy", content("I weigh both.\nSo 5 5.\n</think>\n8 7\nwhy")),
    ("legacy", content('"8" "7"')),
    ("legacy", content("```\n8 7\n```")),
    ("legacy", content("8 10\nThey a", "max_tokens")),
    ("legacy", content("8 10\nThey are", "something new")),
    ("legacy", content("8 7\nAnswer 2 says </think>\n1 1")),
    ("structured", content(f"{THOUGHT}\n{OBJECT}")),
    ("structured", content(f"Here is my verdict:\n```json\n{OBJECT}\n```\nI hope it helps.")),
    ("structured", content(f"[THINK]a tie[/THINK]```json\n{OBJECT}\n```")),
    ("structured", content('{"reasons": "it says </think> twice", "verdict": "Answer_1."}')),
    ("legacy", with_body(usage="5 in, 2 out")),
    ("legacy", with_body(usage={"prompt_tokens": "5", "completion_tokens": "2"})),
    ("legacy", with_body(usage=None, error=None)),
]


@pytest.mark.parametrize(("form", "answer"), READ)
def test_readable_replies_in_other_shapes_are_read(serve: Any, tmp_path: Path, form: str, answer: Any) -> None:
    assert both_ways(serve, tmp_path, answer, form=form) == [("tie", None)] * 2


UNREAD = [
    ("legacy", content("8 1", "length"), "unreadable", "truncated"),
    ("legacy", content("8 1", "MAX_TOKENS"), "unreadable", "truncated"),
    ("legacy", content(THOUGHT[:20], "length"), "unreadable", "truncated"),
    ("legacy", content("<think>5 5\n"), "unreadable", "no two marks"),
    ("structured", content("Hm. <think>```json\n" + OBJECT + "\n```", "length"), "unreadable", "truncated"),
    ("structured", content(f"```{OBJECT}```\nor\n```{OBJECT.replace('1', '2')}```"), "unreadable", "no JSON object"),
    ("legacy", content("", "SAFETY"), "refused", "content filter"),
    ("legacy", content([{"type": "refusal", "refusal": "Not that."}]), "refused", "Not that."),
    ("legacy", content(f"{THOUGHT} I cannot judge this."), "refused", "declined"),
]


@pytest.mark.parametrize(("form", "answer", "state", "reason"), UNREAD)
def test_replies_without_marks_have_their_state_and_are_paid_once(
    serve: Any, tmp_path: Path, form: str, answer: Any, state: str, reason: str
) -> None:
    for found in both_ways(serve, tmp_path, answer, form=form):
        assert found[0] == state and reason in (found[1] or "")
    server = serve(lambda text, times: answer)
    for _ in range(2):
        judge_wins(block(server, form=form), ONE, tmp_path / "twice")
    assert set(server.requested.values()) == {1}


PASSING = [
    (raw(OPENROUTER), "Provider returned error (upstream is down)"),
    (raw({"error": "the queue is full"}), "the queue is full"),
    (raw({"object": "error", "message": "engine died", "code": 500}), "engine died"),
    (raw({"detail": "no worker"}), "no worker"),
    (with_body(choices=[]), "no message in"),
    (with_body(choices=None, error={"message": "late failure"}), "late failure"),
    (with_body(error={"message": "half of it"}), "half of it"),
    (content("8 5\nThey ", "error"), "ended as 'error'"),
    (content("8 5\nThey ", "abort"), "ended as 'abort'"),
    (content("", "unheard_of"), "unknown ending 'unheard_of'"),
    (content("8 1", None), "without an ending"),
    (raw({**json.loads(content("")[1]), "usage": {"completion_tokens": 0}}), "an empty reply"),
]


@pytest.mark.parametrize(("answer", "reason"), PASSING)
@pytest.mark.parametrize("by_batch", [False, True])
def test_passing_errors_show_their_reason_and_are_asked_again(
    serve: Any, tmp_path: Path, answer: Any, reason: str, by_batch: bool
) -> None:
    broken = [True]
    server = serve(lambda text, times: answer if broken[0] and "Question 0" in text else by_length(text, times))
    judge = block(server, batch=by_batch, retries=0)
    todo = rows(("long one", "short"), ("a", "longer"))
    row = judge_wins(judge, todo, tmp_path)[0].to_pylist()[0]
    assert row["state"] == "error" and row["verdict"] is None and reason in row["not_scored"]
    broken[0] = False
    table, spent = judge_wins(judge, todo, tmp_path)
    assert table["state"].to_pylist() == ["win", "lose"] and (spent.asked, spent.kept) == (2, 2)


def test_batch_with_passing_errors_only_is_not_read_twice(serve: Any, tmp_path: Path) -> None:
    broken = [True]
    server = serve(lambda text, times: content("", "abort") if broken[0] else by_length(text, times))
    with pytest.raises(JudgeError, match="answered none of 2 questions; the first: the reply ended as 'abort'"):
        judge_wins(block(server, batch=True), ONE, tmp_path)
    broken[0] = False
    assert outcome(judge_wins(block(server, batch=True), ONE, tmp_path)[0]) == ("win", None)
    assert len(server.batches) == 2


def test_busy_address_in_a_status_200_is_asked_again_at_once(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda text, times: raw({"error": {"code": 429}}) if times < 3 else by_length(text, times))
    assert outcome(judge_wins(block(server), ONE, tmp_path)[0]) == ("win", None)
    assert set(server.requested.values()) == {3}


@pytest.mark.parametrize(
    "answer", [raw({"error": {"code": 402, "message": "no credits"}}), raw({"error": "no credits"}, 402)]
)
def test_missing_credit_stops_at_once_with_the_reason(serve: Any, tmp_path: Path, answer: Any) -> None:
    server = serve(lambda text, times: answer)
    with pytest.raises(JudgeError, match=r"cannot be asked: .*no credits"):
        judge_wins(block(server, concurrency=1), rows(*[("a", "b")] * 6), tmp_path)
    assert sum(server.requested.values()) <= 2


AZURE = {"error": {"code": "content_filter", "message": "The response was filtered due to the prompt", "status": 400}}
OPENAI = {"error": {"code": "context_length_exceeded", "message": "This model's maximum context length is 8 tokens."}}
VLLM = {
    "object": "error",
    "message": "'max_tokens' or 'max_completion_tokens' is too large: 9. This model's maximum context length is 8",
}
ABOUT_ONE = [
    (raw(AZURE, 400), "refused", "filtered due to the prompt"),
    (raw({"error": {"message": "Your input was flagged"}}, 403), "refused", "flagged"),
    (raw(OPENAI, 400), "too_long", "maximum context length is 8"),
    (raw(VLLM, 400), "too_long", "is too large: 9"),
    (raw({"error": "inputs tokens + max_new_tokens must be <= 9"}, 422), "too_long", "must be <= 9"),
    (raw({"error": "big"}, 413), "too_long", "big"),
]


@pytest.mark.parametrize(("answer", "state", "reason"), ABOUT_ONE)
@pytest.mark.parametrize("by_batch", [False, True])
def test_status_400_about_one_prompt_concerns_that_prompt_only(
    serve: Any, tmp_path: Path, answer: Any, state: str, reason: str, by_batch: bool
) -> None:
    server = serve(lambda text, times: answer if "Question 0" in text else by_length(text, times))
    todo = rows(("long one", "short"), ("a", "longer"))
    for _ in range(2):
        table, _ = judge_wins(block(server, batch=by_batch, concurrency=1), todo, tmp_path)
        assert table["state"].to_pylist() == [state, "lose"] and reason in table["not_scored"][0].as_py()
    assert all("max_tokens" in body for body in server.requests)  # the name of the key is not the problem
    assert max(server.requested.values()) == (1 if state == "refused" else 2)  # a longer context may come


def test_warning_shows_one_of_the_first_replies_while_others_are_asked(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    seen: list[int] = []

    def chatty(text: str, times: int) -> Any:
        seen.append(capsys.readouterr().err.count("WARNING"))
        return content("Both are lovely.")

    judge_wins(block(serve(chatty), concurrency=1), rows(*[("a", "b")] * 20), tmp_path / "single")
    assert sum(seen) == 1 and seen.index(1) < 10
    judge_wins(block(serve(chatty), batch=True), rows(*[("a", "b")] * 20), tmp_path / "batch")
    err = capsys.readouterr().err
    assert "judge 'judge-2026-01-01': none of the first 5 replies can be used" in err
    assert "unreadable: no two marks on the first line; 'Both are lovely.'" in err and err.count("WARNING") == 1
    judge_wins(block(serve(by_length_in_json), form="structured"), rows(*[("a", "b")] * 20), tmp_path / "fine")
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("finish", "ending"),
    [("stop", "complete"), ("STOP", "complete"), ("length", "cut"), ("model_length", "cut"), ("SAFETY", "filtered"),
     ("error", "failed"), ("abort", "failed"), ("tool_calls", "unknown"), (None, "unknown"), ("", "unknown")],
)  # fmt: skip
def test_endings_have_kinds(finish: str | None, ending: str) -> None:
    assert ending_of(finish) == ending


def test_key_at_the_cut_of_a_long_reason_is_removed_whole(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-5d1c77e0")
    for length in (250, 285, 295, 299):
        answer = raw({"error": {"message": "x" * length + "planted-key-5d1c77e0" + "y" * 99}})
        server = serve(lambda text, times, answer=answer: answer if "Question 0" in text else by_length(text, times))
        table, _ = judge_wins(block(server), rows(("a", "b"), ("c", "dd")), tmp_path / str(length))
        reason = table["not_scored"].to_pylist()[0]
        assert reason.startswith("error: xxx") and "planted" not in reason
