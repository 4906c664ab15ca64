"""No attack: unchanged harmful and benign prompts."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.safety import DirectBlock
from rebend.evaluation.attacks.attempts import AttackResult, AttackSetup, PromptRow, answer_prompts


def attack(rows: Sequence[PromptRow], settings: DirectBlock, setup: AttackSetup) -> AttackResult:
    """Decode `attempts` responses per prompt. Only this attack also uses benign prompts."""
    return answer_prompts(setup, rows, [[row["messages"]] * settings.attempts for row in rows])
