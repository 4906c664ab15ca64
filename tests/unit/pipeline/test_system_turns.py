"""Prompts with a system turn are refused before the first job if the model's template, a file, cannot write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.errors import ConfigError
from rebend.pipeline.checks.before_run import check_before_jobs
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.checks.system_turns import refuses_system_turns, system_turn_mistakes
from rebend.pipeline.graph.plan import Plan

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "resources/templates"
PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
SYSTEM = {"role": "system", "content": "Be brief."}
DIALOGUE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize("name", ["hh_rlhf", "human_assistant", "user_assistant"])
def test_shipped_templates_refuse_a_system_turn(name: str) -> None:
    assert refuses_system_turns((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))


@pytest.mark.parametrize("template", [PLAIN, "{% unknown %}", "{{ raise_exception('never') if false }}", "no turn"])
def test_other_templates_do_not(template: str) -> None:
    assert not refuses_system_turns(template)


def test_template_that_leaves_the_system_turn_out_refuses_it() -> None:
    assert refuses_system_turns("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}")


def plan_of(folder: Path, dialogues: list[Any], template: Path, **keys: Any) -> Plan:
    file = folder / "own.jsonl"
    file.write_text("\n".join(json.dumps({"messages": messages}) for messages in dialogues), encoding="utf-8")
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    own = {"kind": "prompts", "reader": "ultrachat", "source": {"local": str(file)}, **keys}
    model = {"gguf": str(folder / "own.gguf"), "chat_template": str(template)}
    (folder / "own.gguf").write_bytes(b"GGUF")
    study = folder / "own.yaml"
    grid = {"models": ["own"], "controls": ["smollm2_none"], "prompts": ["own"]}
    study.write_text(yaml.safe_dump({"title": "t", "grids": [grid]}), encoding="utf-8")
    blocks = {"datasets": {**raw["datasets"], "own": own}, "models": {**raw["models"], "own": model}}
    return load_plan({**raw, **blocks, "study": str(study)}, ROOT / "config/studies")


def test_prompts_with_a_system_turn_are_refused_before_the_first_job(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [DIALOGUE, [SYSTEM, *DIALOGUE]], TEMPLATES / "user_assistant.jinja")
    with pytest.raises(ConfigError, match=r"grids\.0\.prompts: 'own' has prompts with a system turn, which .*own"):
        check_before_jobs(plan)


def test_a_draw_is_refused_only_if_every_prompt_has_a_system_turn(tmp_path: Path) -> None:
    template = TEMPLATES / "user_assistant.jinja"
    assert not list(system_turn_mistakes(plan_of(tmp_path, [DIALOGUE, [SYSTEM, *DIALOGUE]], template, rows=1)))
    assert list(system_turn_mistakes(plan_of(tmp_path, [[SYSTEM, *DIALOGUE]] * 2, template, rows=1)))


def test_other_prompts_and_other_templates_are_fine(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jinja"
    plain.write_text(PLAIN, encoding="utf-8")
    assert not list(system_turn_mistakes(plan_of(tmp_path, [[SYSTEM, *DIALOGUE]], plain)))
    assert not list(system_turn_mistakes(plan_of(tmp_path, [DIALOGUE], TEMPLATES / "user_assistant.jinja")))
