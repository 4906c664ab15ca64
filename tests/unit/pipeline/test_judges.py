"""Requests and costs of judges before any job; settings of judges pass through their rules unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.base import settings
from rebend.config.judges import JUDGES, LIMITS, JudgeBlock, OpenAIJudgeBlock, limits_of, money
from rebend.config.load import load_config
from rebend.config.safety import SAFETY_JUDGES, RubricJudgeBlock
from rebend.evaluation.judges.block import judge_block
from rebend.io.files import write_text
from rebend.pipeline.cost.judges import judge_outlook
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan

ROOT = Path(__file__).parents[3]


def plan(study: str, **judge: Any) -> Plan:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for name in ("gpt4", "gpt4_released"):
        raw["judges"][name] |= judge
    return Plan(load_config({**raw, "study": study}, ROOT / "config/studies"))


def test_outlook_names_requests_replies_cost_and_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = plan("paper_recontrol", sample=10, max_tokens=100, price_in=1.0, price_out=2.0, max_cost=0.5)
    both, single = (
        [cell for cell in one.cells if cell.role == "quality" and cell.grid.judge == name]
        for name in ("gpt4", "gpt4_released")
    )
    cells = both
    requests = 2 * 10 * len(cells)
    line, in_one_order = sorted(judge_outlook(one))
    assert f"judges.gpt4_released: {len(single)} jobs ask 'gpt-4-0613' in one order" in in_one_order
    assert f"at most {10 * len(single)} requests" in in_one_order
    assert f"judges.gpt4: {len(cells)} jobs ask 'gpt-4-0613' in both orders" in line
    assert f"at most {requests} requests, replies of at most {requests * 100} tokens" in line
    assert f"at most {money(requests * 100 * 2 / 1e6)} without the prompts" in line and "more than 0.5" in line
    first = cells[0]
    write_text(paths.verdicts("gpt4", first.model, first.dataset, first.control), "x")
    assert f"judges.gpt4: {len(cells) - 1} jobs" in sorted(judge_outlook(one))[0]


def test_outlook_names_a_rubric_behind_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    prices = {"price_in": 1.0, "price_out": 2.0, "max_cost": 0.5, "max_tokens": 100}
    raw["safety_judges"]["refusal_matcher"] = {"method": "rubric", "model": "judge-2026-01-01", **prices}
    one = Plan(load_config({**raw, "study": "tiny"}, ROOT / "config/studies"))
    attacked = [cell for cell in one.cells if cell.role == "safety"]
    (line,) = judge_outlook(one)
    assert f"safety_judges.refusal_matcher: {len(attacked)} jobs ask 'judge-2026-01-01' about every completion" in line
    assert "replies of at most 100 tokens (0.0002) each" in line and "more than 0.5" in line
    write_text(attacked[0].safety("refusal_matcher"), "x")
    assert f": {len(attacked) - 1} jobs" in judge_outlook(one)[0]


def test_outlook_is_empty_for_judges_without_requests() -> None:
    assert judge_outlook(plan("tiny")) == []


def test_judge_passes_through_its_rule_unchanged() -> None:
    judge = OpenAIJudgeBlock(
        method="openai",
        model="m",
        price_in=1.0,
        price_out=2.0,
        max_cost=0.5,
        batch=True,
        timeout=9,
        retries=1,
        concurrency=3,
    )
    tracked = settings(judge, without=("timeout", "batch", "max_cost", "max_tokens_total"))
    assert not {"concurrency", "retries", "timeout", "batch", "max_cost"} & set(tracked)
    resources = {"concurrency": 3, "retries": 1, "limits": limits_of(judge), "mem_mb": 100}
    assert judge_block(tracked, resources, JUDGES) == judge


def test_safety_judge_passes_through_its_rule_unchanged() -> None:
    judge = RubricJudgeBlock(method="rubric", model="m", max_tokens_total=9, timeout=7, retries=1, threshold=0.25)
    tracked = settings(judge, without=LIMITS)
    assert set(tracked) == {
        *("method", "model", "base_url", "temperature", "max_tokens", "price_in", "price_out", "threshold")
    }
    resources = {"concurrency": 8, "retries": 1, "limits": limits_of(judge)}
    assert judge_block(tracked, resources, SAFETY_JUDGES) == judge
    truth = judge_block({"method": "world_truth"}, {"concurrency": 1, "retries": 0, "limits": "{}"}, SAFETY_JUDGES)
    assert truth.method == "world_truth"


def test_rubric_of_the_tiny_world_passes_through_its_rule_unchanged() -> None:
    resources = {"concurrency": 1, "retries": 0, "limits": limits_of(JudgeBlock(method="world_rubric"))}
    assert judge_block({"method": "world_rubric", "sample": 3, "seed": 1}, resources, JUDGES).sample == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_cost": 1.0}, "`max_cost` needs `price_in`"),
        ({"price_in": 1.0}, "belong together"),
        ({"base_url": "https://me:word@here/v1"}, "records would contain"),
        ({"base_url": "https://here/v1?key=x"}, "records would contain"),
        ({"base_url": "here/v1"}, "begins with http"),
    ],
)
def test_invalid_judge_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenAIJudgeBlock(method="openai", model="m", **change)
