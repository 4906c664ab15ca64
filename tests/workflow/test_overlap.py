"""Overlap with learnt data is refused before anything is chosen or decoded."""

from __future__ import annotations

import json

from tests.workflow.checkout import Checkout

SAME = {"datasets": {"micro_validation": {"source": {"world": {"part": "rollouts", "rows": 6}}}}}
OTHER = """
title: No control
grids:
  - { models: [micro], adapters: [micro_adapter], controls: [micro_none], prompts: [micro_test], reward: micro_reward }
"""


def test_strength_is_not_chosen_on_prompts_that_something_learnt_from(checkout: Checkout) -> None:
    """The two data sets have different names and sizes, but the first prompts of one generator."""
    done = checkout.snakemake("results/strengths/micro/micro_static.json", "--keep-going", change=SAME)
    assert done.returncode != 0
    log = (checkout.folder / "results/logs/check_overlap/micro_validation.log").read_text(encoding="utf-8")
    assert "6 of its 6 prompts are also in 'micro_rollout_prompts' (activations.micro_rollouts.dataset)" in log
    assert not (checkout.folder / "results/strengths").exists()


def test_check_of_another_study_makes_no_result_again(built: Checkout) -> None:
    """The other study has no control, so that its check reads fewer data sets."""
    study = built.folder / "other.yaml"
    study.write_text(OTHER, encoding="utf-8")
    done = built.snakemake("--dry-run", study=study.name)
    assert done.returncode == 0, done.stdout + done.stderr
    planned = done.stdout + done.stderr
    assert "check_overlap" in planned and "make_tables" in planned
    assert not any(f"rule {rule}:" in planned for rule in ("decode", "attack", "choose_strength", "train_value_model"))
    facts = json.loads((built.folder / "results/overlap/micro_test.json").read_text(encoding="utf-8"))
    assert "micro_rollout_prompts" in facts["prompts"]
