"""Rows for judges, replies of simple judges, and the settings of judges."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from rebend.config.judges import OpenAIJudgeBlock
from tests.helpers.judge_server import Judge, reply


def by_length(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
    """Return marks that prefer the longer answer."""
    first, second = answers(text)
    return reply(f"{min(10, len(first))} {min(10, len(second))}\nThe longer one.")


def by_length_in_json(text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
    """Return a structured verdict that prefers the longer answer."""
    first, second = (len(answer) for answer in answers(text))
    verdict = "tie" if first == second else "answer 1" if first > second else "answer 2"
    return reply(json.dumps({"reasons": "The longer one.", "verdict": verdict}))


def answers(text: str) -> tuple[str, str]:
    """Return the two answers in a request."""
    first, second = (text.split(f"[Answer {i}]\n")[1].split("\n[End")[0] for i in (1, 2))
    return first, second


def block(server: Judge, **changes: Any) -> OpenAIJudgeBlock:
    settings = {"method": "openai", "model": "judge-2026-01-01", "base_url": server.url, "retries": 3}
    return OpenAIJudgeBlock(**{**settings, **changes})


def rows(*pairs: tuple[str | None, str | None]) -> list[dict[str, Any]]:
    return [
        {"row_id": f"r{i}", "messages": [{"role": "user", "content": f"Question {i}?"}], "response": a, "reference": b}
        for i, (a, b) in enumerate(pairs)
    ]


def verdicts(table: pa.Table) -> list[tuple[str | None, str | None]]:
    return [(row["verdict"], row["not_scored"]) for row in table.to_pylist()]
