"""The harmful prompts whose answers are sampled: each once, without the prompts of other data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rebend.data.overlap import prompts_in
from rebend.errors import DataError

PromptRow = dict[str, Any]  # the columns of EVALUATION


@dataclass(frozen=True)
class Near:
    """Embeddings (schema EMBEDDINGS) of the prompts and of other data sets, and the largest cosine that is kept."""

    own: Sequence[pa.Table]
    others: Mapping[str, pa.Table]
    cosine: float

    def left_out(self) -> dict[str, str]:
        """Return row id → name of the data set that has the nearest prompt, of prompts above the bound."""
        ids = [row_id for table in self.own for row_id in table["row_id"].to_pylist()]
        cosines = np.stack([self._nearest(table) for table in self.others.values()])  # [data sets, prompts]
        names = list(self.others)
        return {
            row_id: names[int(column.argmax())]
            for row_id, column in zip(ids, cosines.T, strict=True)
            if column.max() > self.cosine
        }

    def _nearest(self, other: pa.Table) -> NDArray[np.float64]:
        """Return the largest cosine of each prompt with a prompt of `other`."""
        own = np.concatenate([directions(table) for table in self.own])
        return np.asarray((own @ directions(other).T).max(axis=1))


def directions(embeddings: pa.Table) -> NDArray[np.float64]:
    """Return the embeddings [rows, D] at length 1. Raises `DataError` if there are none."""
    if not embeddings.num_rows:
        raise DataError("a data set without prompts cannot be compared")
    vectors = np.array(embeddings["embedding"].to_pylist(), dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


def usable_prompts(
    rows: Iterable[PromptRow], without: Mapping[str, Collection[str]], near: Near | None
) -> tuple[list[PromptRow], dict[str, int]]:
    """Return the harmful prompts to ask, each once, and the numbers of others by reason.

    `without` has the prompts (`rebend.data.overlap.prompts_in`) of each data set whose prompts are left out.
    """
    left_out: Counter[str] = Counter()
    close = near.left_out() if near else {}
    seen: set[str] = set()
    kept = []
    for row in rows:
        (prompt,) = prompts_in(row["messages"])
        named = next((name for name, prompts in without.items() if prompt in prompts), None)
        if not row["harmful"]:
            left_out["harmless prompt"] += 1
        elif prompt in seen:
            left_out["repeated prompt"] += 1
        elif named:
            left_out[f"prompt of '{named}'"] += 1
        elif row["row_id"] in close:
            left_out[f"near a prompt of '{close[row['row_id']]}'"] += 1
        else:
            kept.append(row)
        seen.add(prompt)
    return kept, dict(left_out)
