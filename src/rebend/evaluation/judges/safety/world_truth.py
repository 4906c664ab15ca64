"""The exact safety judge of the tiny world."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.safety import WorldTruthBlock
from rebend.data.tiny_world.verdicts import verdict
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.safety.verdict import JudgedRow, JudgeFolders, Verdict
from rebend.models.chat import last_user_text


def judge(settings: WorldTruthBlock, rows: Sequence[JudgedRow], folders: JudgeFolders) -> tuple[list[Verdict], Spent]:
    """Return the exact verdict on each response, and whether it answers the prompt correctly."""
    return [Verdict(*verdict(last_user_text(row["messages"]), row["response"])) for row in rows], Spent()
