"""A grid's models, data sets and rewards must agree on the form of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.load import load_config
from rebend.config.study import Grid
from rebend.pipeline.checks.texts import text_mistakes

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def catalogue() -> Any:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    return load_config({**raw, "study": "paper_recontrol"}, ROOT / "config/studies").catalogue


def mistakes(catalogue: Any, **grid: Any) -> list[str]:
    keys = {"controls": ["none_128"], "reward": "llama_7b_rm_released", **grid}
    return text_mistakes(catalogue, Grid.model_validate(keys), "studies.s.grids.0")


def test_blocks_of_one_variant_go_together(catalogue: Any) -> None:
    assert mistakes(catalogue, models=["vicuna_7b_released"], prompts=["paper_hh_test_released"]) == []
    assert mistakes(catalogue, models=["vicuna_7b"], prompts=["paper_hh_test"], reward="llama_7b_rm") == []


def test_each_block_of_another_variant_is_named(catalogue: Any) -> None:
    found = mistakes(
        catalogue,
        models=["vicuna_7b_released"],
        adapters=["none", "hh_dpo"],
        prompts=["paper_hh_test"],
        reward="llama_7b_rm",
        controls=["value_hh_vicuna", "static_hh"],
    )
    places = [mistake.partition(" is of")[0] for mistake in found]
    assert places == [
        "studies.s.grids.0.prompts: 'paper_hh_test' (in datasets)",
        "studies.s.grids.0.reward: 'llama_7b_rm' (in rewards)",
        "studies.s.grids.0.controls: 'llama_7b_rm' (in rewards)",
        "studies.s.grids.0.controls: 'paper_hh_train' (in datasets)",
        "studies.s.grids.0.controls: 'paper_hh_validation' (in datasets)",
        "studies.s.grids.0.adapters: 'hh_dpo' trains on dialogues; 'vicuna_7b_released' writes none",
    ]
    assert "`variant: corrected`, model 'vicuna_7b_released' of `variant: released_code`" in found[0]
    (reverse,) = mistakes(catalogue, models=["vicuna_7b"], prompts=["paper_hh_test_released"], reward=None)
    assert "'paper_hh_test_released' (in datasets) is of `variant: released_code`, model 'vicuna_7b'" in reverse
