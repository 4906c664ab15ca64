"""Adapters that do not fit the adapters or the data that they name are refused before any job."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rebend.errors import ConfigError
from rebend.pipeline.checks.study import load_plan
from tests.unit.pipeline.test_plan import ROOT

CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def load(**adapters: dict[str, Any]) -> None:
    raw = {**CONFIG, "study": "tiny", "adapters": {**CONFIG["adapters"], **adapters}}
    load_plan(raw, ROOT / "config/studies")


def test_whp_does_not_compare_with_whp() -> None:
    with pytest.raises(ConfigError, match=r"adapters\.mine\.reinforced: 'mine' is an adapter of WHP"):
        load(mine={"like": "paper_whp", "reinforced": "mine"})


@pytest.mark.parametrize(
    ("mode", "examples", "wrong"),
    [
        ("prompt_last", "paper_wildguard", "wildguardmix"),
        ("request_all", "paper_wildguard", "wildguardmix"),
        ("response_all", "paper_wildguard_prompts", "wildguardmix_prompts"),
    ],
)
def test_classes_follow_the_loss_mode_as_released(mode: str, examples: str, wrong: str) -> None:
    block = {"like": "repbend_llama3", "loss_mode": mode, "examples": examples}
    message = rf"adapters\.mine\.examples: '{examples}' has the reader {wrong}; with loss_mode"
    with pytest.raises(ConfigError, match=message):
        load(mine=block)
    load(mine={**block, "variant": "corrected", "lora_dropout": 0.0})


def test_classes_that_the_released_code_uses_are_accepted() -> None:
    load(mine={"like": "repbend_llama3", "loss_mode": "prompt_last", "examples": "paper_wildguard_prompts"})
