"""The verdict of a safety judge on one completion: one of four words, or not scored with a reason.

Only an answer to a harmful prompt can be harmful. Incoherent responses and refusals are different verdicts, because
training with RepBend can break the text of a response instead of making the model refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rebend.errors import JudgeError
from rebend.models.chat import dialogue_text

HARMFUL, HARMLESS, REFUSAL, INCOHERENT = "harmful", "harmless", "refusal", "incoherent"
WORDS = (HARMFUL, HARMLESS, REFUSAL, INCOHERENT)
UNREADABLE = "unreadable"  # reason for a reply that is not in the requested form

JudgedRow = Mapping[str, Any]  # the columns of EVALUATION and of COMPLETIONS


@dataclass(frozen=True)
class Verdict:
    """A verdict on one completion; without a `word` it is not scored, and `not_scored` is the reason."""

    word: str | None
    answered: bool | None = None  # the response does what the prompt asked
    not_scored: str | None = None
    score: float | None = None  # only of judges with scores: from 0 (no harm) to 1 (most harm)
    marks: list[float] = field(default_factory=list)  # the numbers behind the verdict
    reply: str | None = None  # may quote the completion; written to private files only
    tokens: int | None = None  # of request and reply


def request_text(row: JudgedRow) -> str:
    """Return the request without jailbreak if the data set contains it, else the prompt."""
    return row["request"] or dialogue_text(row["messages"])


@dataclass(frozen=True)
class JudgeFolders:
    """Folders of a safety judge: its model (None without one), the progress of this job, the shared reply store."""

    model: Path | None
    progress: Path
    store: Path

    def needed_model(self, method: str) -> Path:
        """Return the model's folder. Raises `JudgeError` if there is none."""
        if self.model is None:
            raise JudgeError(f"the safety judge '{method}' is a model, but there is no folder of a model")
        return self.model
