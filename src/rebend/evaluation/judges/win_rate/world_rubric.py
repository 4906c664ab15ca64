"""A proxy for a win-rate judge: the rubric of the tiny world."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.judges import WorldRubricBlock
from rebend.data.tiny_world.verdicts import rubric
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.win_rate.verdict import ComparedRow, JudgeInputs, Judgement, by_scores
from rebend.models.chat import last_user_text


def judge(
    settings: WorldRubricBlock, rows: Sequence[ComparedRow], inputs: JudgeInputs
) -> tuple[list[Judgement], Spent]:
    """Return the comparison of the two scores of each row."""
    prompts = [last_user_text(row["messages"]) for row in rows]
    scores = [
        (rubric(prompt, row["response"]), rubric(prompt, row["reference"]))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return [by_scores(*pair) for pair in scores], Spent()
