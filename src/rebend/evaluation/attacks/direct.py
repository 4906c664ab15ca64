"""No attack: every prompt as it is, harmful or not."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.safety import DirectBlock
from rebend.evaluation.attacks.attempts import AttackResult, AttackSetup, PromptRow, answer_prompts


def attack(rows: Sequence[PromptRow], settings: DirectBlock, setup: AttackSetup) -> AttackResult:
    """Answer each prompt `attempts` times. This is the only attack that also answers benign prompts."""
    return answer_prompts(setup, rows, [[row["messages"]] * settings.attempts for row in rows])
