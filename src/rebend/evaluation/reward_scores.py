"""Rewards of the texts in a table of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.io.chunks import ChunkStore
from rebend.io.scores import score_table
from rebend.models.rewards.reward import Reward, naming


def score_rows(model: Reward, rows: Sequence[dict[str, Any]], column: str, parts: ChunkStore) -> pa.Table:
    """Return a table of schema SCORES with the reward of the text in `column` of each row, as an answer to it."""
    names = [row["row_id"] for row in rows]
    with naming(names):
        found = model.score([row["messages"] for row in rows], [row[column] for row in rows], parts)
    return score_table(names, found)
