"""Rewards of the texts in a table of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.io.chunks import ChunkStore
from rebend.io.scores import score_table
from rebend.models.rewards.reward import Reward, naming


def score_rows(model: Reward, rows: Sequence[dict[str, Any]], column: str, parts: ChunkStore) -> pa.Table:
    """Return a table of schema SCORES: the reward of the text in `column` as an answer to the prompt of its row."""
    row_ids = [row["row_id"] for row in rows]
    with naming(row_ids):
        rewards = model.score([row["messages"] for row in rows], [row[column] for row in rows], parts)
    return score_table(row_ids, rewards)
