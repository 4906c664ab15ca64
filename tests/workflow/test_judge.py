"""A judge in the graph: requests are sent once, replies are used again, and no file holds the key."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rebend.io.files import read_json
from tests.helpers.judge_server import Answer, Judge, judges_on_call, reply
from tests.workflow.checkout import MICRO, Checkout

SECRET = "sk-planted-9a4be210"
STUDY = f"{MICRO}/judged.yaml"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Judge]]:
    with judges_on_call(monkeypatch) as start:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        yield start


def first_is_better(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
    """Return a verdict for the first answer, with the key that the request had."""
    time.sleep(0.05)  # long enough for requests to overlap
    if "[Reply]" in text:  # one completion, for the rubric
        return reply(json.dumps({"reason": f"asked with {SECRET}", "refused": 0, "convincing": 1, "specific": 1}))
    return reply(f"8 6\nasked with {SECRET}")


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_judged_study_sends_each_request_once_and_writes_the_key_nowhere(
    checkout: Checkout, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(first_is_better)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    done = checkout.snakemake(study=STUDY)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    assert "judges.micro_asked: 2 jobs ask 'judge-2026-01-01' in both orders about every row" in output
    assert "safety_judges.micro_rubric: 1 jobs ask 'judge-2026-01-01' about every completion" in output
    sent = sum(server.requested.values())
    assert sent > 0 and set(server.requested.values()) == {1}
    assert server.most_running <= 2  # two jobs with concurrency 1
    assert server.requests[0]["key"] == f"Bearer {SECRET}"
    assert SECRET not in output and files_with(checkout.folder, SECRET) == []
    assert len(files_with(checkout.folder / "results/judge_store", "[the key]")) == sent

    with (checkout.folder / "results/tables/win_rates.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert {line["judge"] for line in lines} == {"judge-2026-01-01"} and len(lines) == 2
    assert all(float(line["win_rate"]) == 0 and line["tie"] == line["ties_of_orders"] for line in lines)
    (log, *_) = checkout.folder.glob("results/logs/judge_win_rate/**/*.log")
    assert "answered before" in log.read_text()
    record = read_json(next(checkout.folder.glob("results/win_rate_verdicts/**/micro_none.run.json")))
    assert record["notes"]["spent_now"]["asked"] > 0 and record["notes"]["states"]["error"] == 0

    (safety,) = checkout.folder.glob("results/safety_verdicts/micro_rubric/**/micro_none.run.json")
    assert read_json(safety)["notes"]["spent_now"]["asked"] > 0

    prices = {"price_in": 1.0, "price_out": 2.0}
    priced = {"judges": {"micro_asked": prices}, "safety_judges": {"micro_rubric": prices}}
    again = checkout.snakemake(study=STUDY, change=priced)
    assert again.returncode == 0, again.stderr[-3000:]
    assert sum(server.requested.values()) == sent  # prices change the printed cost, not the replies
    record = read_json(next(checkout.folder.glob("results/win_rate_verdicts/**/micro_none.run.json")))
    assert record["notes"]["spent_now"]["asked"] == 0 and record["notes"]["spent_now"]["cost"] == 0
    spent = read_json(safety)["notes"]["spent_now"]
    assert spent["asked"] == 0 and spent["kept_before"] > 0
    with (checkout.folder / "results/tables/win_rates.csv").open() as stream:
        assert all(float(line["cost"]) > 0 for line in csv.DictReader(stream))

    limits = {**prices, "max_cost": 9.0, "timeout": 7, "concurrency": 1, "batch": True}
    change = {"judges": {"micro_asked": limits}, "safety_judges": {"micro_rubric": limits}}
    idle = checkout.snakemake("--dry-run", study=STUDY, change=change)
    assert "Nothing to be done" in idle.stdout + idle.stderr


def test_cap_stops_the_job_before_any_request(checkout: Checkout, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(first_is_better)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    cap = {"max_tokens_total": 100}
    capped = {"judges": {"micro_asked": cap}, "safety_judges": {"micro_rubric": cap}}
    done = checkout.snakemake(study=STUDY, change=capped)
    assert done.returncode != 0 and not server.requested
    log = next(checkout.folder.glob("results/logs/judge_win_rate/**/*.log")).read_text()
    assert "JudgeError: nothing was sent" in log and "max_tokens_total 100" in log
    assert json.loads(next(checkout.folder.glob("results/responses/**/*.json")).read_text())  # other results exist
