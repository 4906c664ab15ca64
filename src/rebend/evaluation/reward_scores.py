"""Rewards of the texts in a table of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.io.chunks import ChunkStore
from rebend.io.scores import score_table
from rebend.models.rewards.reward import Reward, naming


def cut_text(text: str | None, stop: Sequence[str]) -> str | None:
    """Return the part of a text before the first of the texts `stop`, in capitals or not; None for no text."""
    if text is None or not stop:
        return text
    return re.split("|".join(map(re.escape, stop)), text, maxsplit=1, flags=re.IGNORECASE)[0]


def score_rows(
    model: Reward, rows: Sequence[dict[str, Any]], column: str, parts: ChunkStore, stop: Sequence[str] = ()
) -> pa.Table:
    """Return a table of schema SCORES: the reward of the text in `column` as an answer to the prompt of its row.

    The text is cut before the first of the texts `stop` (see `cut_text`).
    """
    row_ids = [row["row_id"] for row in rows]
    with naming(row_ids):
        rewards = model.score([row["messages"] for row in rows], [cut_text(row[column], stop) for row in rows], parts)
    return score_table(row_ids, rewards)
