"""Keys are nowhere in what a run leaves, however it fails; what was attacked is for its owner only."""

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
    """Start a judge behind an address with a password; all keys are in the environment of the run."""
    with judges_on_call(monkeypatch) as start:

        def begin(answer: Answer) -> Judge:
            server = start(answer)
            address = server.url.replace("http://", f"http://reader:{PASSWORD}@")
            for name, value in (("OPENAI_API_KEY", KEY), ("HF_TOKEN", TOKEN), ("OPENAI_BASE_URL", address)):
                monkeypatch.setenv(name, value)
            return server

        yield begin


def echoing(status: int) -> Answer:
    """A judge that fails with this status, and repeats every key in its complaint."""

    def answer(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        said = f"wrong key {KEY}, token {TOKEN}, header Basic {BASIC}, password {PASSWORD}"
        if status == 200:
            return reply(f"8 6\n{said}")
        return status, json.dumps({"error": {"message": said, "code": KEY}}).encode(), {}

    return answer


def places(folder: Path) -> list[tuple[str, str]]:
    """Every file below `folder`, also Snakemake's own, that holds a key in any form, and which."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(".snakemake" in path.parts for path in files)
    return [
        (str(path.relative_to(folder)), form)
        for path in files
        for form in (KEY, TOKEN, PASSWORD, BASIC)
        if form.encode() in path.read_bytes()
    ]


def test_keys_are_nowhere_whether_the_judge_refuses_breaks_or_answers(checkout: Checkout, serve: Any) -> None:
    patience = {"judges": {"micro_asked": {"retries": 0}}, "safety_judges": {"micro_rubric": {"retries": 0}}}
    for status, reason in ((401, "cannot be asked"), (500, "answered none"), (200, "")):
        server = serve(echoing(status))
        done = checkout.snakemake(study=STUDY, change=patience)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == (status == 200), said[-4000:]
        assert server.requested
        if reason:
            log = next(checkout.folder.glob("results/logs/judge_win_rate/**/*.log")).read_text()
            assert "JudgeError" in log and reason in log and "wrong key [the key], token [the key]" in log
        assert not any(form in said for form in (KEY, TOKEN, PASSWORD, BASIC))
        assert places(checkout.folder) == []
    assert (checkout.folder / "results/report.html").exists()


def test_completions_and_verdicts_on_them_are_private_with_folders_logs_and_progress(built: Checkout) -> None:
    results = built.folder / "results"
    stages = ("attack", "judge_safety")
    roots = [results / "completions", results / "safety", *(results / "logs" / stage for stage in stages)]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert len(files) >= 8 and any(path.suffix == ".log" for path in files)
    files += [path for stage in stages for path in (results / "progress" / stage).rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in files} == {0o700}
