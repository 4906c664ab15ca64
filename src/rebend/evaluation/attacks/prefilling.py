"""Prefilling attack: the response begins with the target text, and the model continues it.

Source: arXiv:2504.01550, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.safety import PrefillingBlock
from rebend.evaluation.attacks.attempts import (
    AttackResult,
    AttackSetup,
    PromptRow,
    answer_prompts,
    harmful_rows,
    target_of,
)


def attack(rows: Sequence[PromptRow], settings: PrefillingBlock, setup: AttackSetup) -> AttackResult:
    """Decode `attempts` responses per harmful prompt, each beginning with target and suffix."""
    harmful = harmful_rows(rows)
    prompts = [[row["messages"]] * settings.attempts for row in harmful]
    prefills = [target_of(row, settings.target) + settings.suffix for row in harmful]
    return answer_prompts(setup, harmful, prompts, prefills)
