"""The judge reward_model."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.config.judges import RewardModelJudgeBlock
from rebend.errors import JudgeError
from rebend.evaluation.judges.win_rate.judge import judge_wins
from tests.helpers.judged_rows import rows, verdicts


def test_rewards_are_compared_and_missing_rewards_are_not_scored(tmp_path: Path) -> None:
    judge = RewardModelJudgeBlock(method="reward_model", reward="x")
    ours = {"r0": 2.0, "r1": 1.0, "r2": 1.0, "r3": None, "r4": 5.0}
    theirs = {"r0": 1.0, "r1": 2.0, "r2": 1.0, "r3": 1.0, "r4": None}
    found = verdicts(judge_wins(judge, rows(*[("a", "b")] * 5), tmp_path, ours, theirs)[0])
    assert found[:3] == [("win", None), ("lose", None), ("tie", None)]
    assert found[3:] == [(None, "no reward of the response"), (None, "no reward of the reference")]
    with pytest.raises(JudgeError, match="needs the rewards"):
        judge_wins(judge, rows(("a", "b")), tmp_path)
