"""No file of a run holds a key, also after failures; files of attacks can be read by their owner only."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.judge_server import Answer, Judge, judges_on_call, reply
from tests.workflow.checkout import MICRO, Checkout

KEY, TOKEN, PASSWORD = "sk-planted-9a4be210", "hf_planted_77c1d2", "planted-word-55"
BASIC = base64.b64encode(f"reader:{PASSWORD}".encode()).decode()
STUDY = f"{MICRO}/judged.yaml"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Judge]]:
    """A function that starts a judge whose address has a password, with all keys in the environment."""
    with judges_on_call(monkeypatch) as start:

        def begin(answer: Answer) -> Judge:
            server = start(answer)
            address = server.url.replace("http://", f"http://reader:{PASSWORD}@")
            for name, value in (("OPENAI_API_KEY", KEY), ("HF_TOKEN", TOKEN), ("OPENAI_BASE_URL", address)):
                monkeypatch.setenv(name, value)
            return server

        yield begin


def echoing(status: int) -> Answer:
    """Return a judge's reply with this status and every key in its text."""

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        output = f"wrong key {KEY}, token {TOKEN}, header Basic {BASIC}, password {PASSWORD}"
        if status == 200:
            return reply(f"8 6\n{output}")
        return status, json.dumps({"error": {"message": output, "code": KEY}}).encode(), {}

    return answer


def files_with_keys(folder: Path) -> list[tuple[str, str]]:
    """Return each file below `folder`, Snakemake's included, that holds a key, with the key."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(".snakemake" in path.parts for path in files)
    return [
        (str(path.relative_to(folder)), form)
        for path in files
        for form in (KEY, TOKEN, PASSWORD, BASIC)
        if form.encode() in path.read_bytes()
    ]


def test_no_file_holds_a_key_with_a_refusing_failing_or_working_judge(checkout: Checkout, serve: Any) -> None:
    no_retries = {"judges": {"micro_asked": {"retries": 0}}, "safety_judges": {"micro_rubric": {"retries": 0}}}
    for status, reason in ((401, "cannot be asked"), (500, "answered none"), (200, "")):
        server = serve(echoing(status))
        done = checkout.snakemake(study=STUDY, change=no_retries)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == (status == 200), output[-4000:]
        assert server.requested
        if reason:
            log = next(checkout.folder.glob("results/logs/judge_win_rate/**/*.log")).read_text()
            assert "JudgeError" in log and reason in log and "wrong key [the key], token [the key]" in log
        assert not any(form in output for form in (KEY, TOKEN, PASSWORD, BASIC))
        assert files_with_keys(checkout.folder) == []
    assert (checkout.folder / "results/report.html").exists()


def test_files_of_attacks_can_be_read_by_their_owner_only(built: Checkout) -> None:
    results = built.folder / "results"
    stages = ("attack", "judge_safety")
    roots = [results / "completions", results / "safety_verdicts", *(results / "logs" / stage for stage in stages)]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert len(files) >= 8 and any(path.suffix == ".log" for path in files)
    files += [path for stage in stages for path in (results / "progress" / stage).rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in files} == {0o700}
