"""The judge world_rubric."""

from __future__ import annotations

from pathlib import Path

from rebend.config.judges import WorldRubricBlock
from rebend.data.tiny_world.generate import generate
from rebend.data.tiny_world.verdicts import rubric
from rebend.evaluation.judges.win_rate.judge import judge_wins
from tests.helpers.judged_rows import verdicts


def test_verdicts_compare_the_scores_of_the_rubric(tmp_path: Path) -> None:
    todo = [
        {**r, "row_id": str(i), "response": "x" if i % 2 else r["reference"]}
        for i, r in enumerate(generate("test", 8, 0))
    ]
    found = verdicts(judge_wins(WorldRubricBlock(method="world_rubric"), todo, tmp_path)[0])
    better = [
        rubric(r["messages"][-1]["content"], r["reference"]) > rubric(r["messages"][-1]["content"], "x") for r in todo
    ]
    assert all(better)
    assert found == [("tie", None), ("lose", None)] * 4
