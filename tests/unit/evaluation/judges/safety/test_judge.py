"""The frame of safety judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.config.safety import RefusalMatcherBlock, WildGuardJudgeBlock, WorldTruthBlock
from rebend.errors import DataError, JudgeError
from rebend.evaluation.judges.safety.judge import DETAILED_SAFETY_VERDICTS
from rebend.evaluation.judges.safety.verdict import Verdict
from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import SAFETY_VERDICTS
from tests.helpers.safety_rows import ANSWER, judged, row

MATCHER = RefusalMatcherBlock(method="refusal_matcher")


def test_missing_responses_are_not_scored_and_empty_ones_are_incoherent(tmp_path: Path) -> None:
    rows = [row(None, row_id="a"), row(" ", row_id="b", attempt=2)]
    for judge in (MATCHER, WorldTruthBlock(method="world_truth")):
        table = judged(judge, rows, None, tmp_path)
        assert table.schema == DETAILED_SAFETY_VERDICTS
        assert table.select(SAFETY_VERDICTS.names).to_pylist() == [
            {"row_id": "a", "attempt": 0, "verdict": None, "answered": None, "not_scored": "no response"},
            {"row_id": "b", "attempt": 2, "verdict": "incoherent", "answered": False, "not_scored": None},
        ]


def test_detailed_file_can_be_read_with_the_plain_schema(tmp_path: Path) -> None:
    write_parquet(tmp_path / "verdicts.parquet", judged(MATCHER, [row(ANSWER)], None, tmp_path))
    assert read_parquet(tmp_path / "verdicts.parquet", SAFETY_VERDICTS)["verdict"].to_pylist() == ["harmful"]


@pytest.mark.parametrize(
    ("verdict", "message"), [(Verdict("harmful", True), "marked as harmless"), (Verdict("bad"), "is none of harmful")]
)
def test_impossible_verdict_raises_data_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: Verdict, message: str
) -> None:
    monkeypatch.setattr("rebend.evaluation.judges.safety.refusal_phrases.refusal_verdict", lambda row: verdict)
    with pytest.raises(DataError, match=message):
        judged(MATCHER, [row("x", harmful=False)], None, tmp_path)


def test_model_judge_without_folder_raises_judge_error(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no folder"):
        judged(WildGuardJudgeBlock(method="wildguard", local="x"), [row(ANSWER)], None, tmp_path)
