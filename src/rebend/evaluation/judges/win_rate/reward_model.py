"""A proxy for a win-rate judge: the answer with the higher reward wins."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.judges import RewardModelJudgeBlock
from rebend.errors import JudgeError
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.win_rate.verdict import ComparedRow, JudgeInputs, Judgement, by_scores


def judge(
    settings: RewardModelJudgeBlock, rows: Sequence[ComparedRow], inputs: JudgeInputs
) -> tuple[list[Judgement], Spent]:
    """Return the comparison of the two rewards of each row. Raises `JudgeError` without rewards."""
    rewards, references = inputs.rewards, inputs.reference_rewards
    if rewards is None or references is None:
        raise JudgeError("the judge `reward_model` needs the rewards of responses and of references")
    return [by_scores(rewards.get(row["row_id"]), references.get(row["row_id"])) for row in rows], Spent()
