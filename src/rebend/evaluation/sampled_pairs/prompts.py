"""The prompts whose answers are sampled: each once, all harmful or all harmless, without those of other data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rebend.config.datasets import SampledBlock
from rebend.data.overlap import prompts_of
from rebend.errors import DataError
from rebend.io.files import read_parquet
from rebend.io.prompts import prompts_in
from rebend.io.schemas import EMBEDDINGS

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


def chosen_prompts(block: SampledBlock, files: Any, harmful: bool) -> tuple[list[PromptRow], dict[str, int]]:
    """Return the prompts to ask, and the numbers of others by reason (`usable_prompts`), and print the numbers.

    `files` has the paths of prepared data in the order of the block: `prompts`, `without`, and with `near` the
    embeddings of the prompts (`embeddings`) and of the data sets of `near.data` (`near`).
    """
    near = None
    if block.near:
        own = [read_parquet(path, EMBEDDINGS) for path in files.embeddings]
        others = {name: read_parquet(path, EMBEDDINGS) for name, path in zip(block.near.data, files.near, strict=True)}
        near = Near(own, others, block.near.cosine)
    without = {name: prompts_of(path) for name, path in zip(block.without, files.without, strict=True)}
    rows = [row for path in files.prompts for row in prompt_rows(path)]
    prompts, left_out = usable_prompts(rows, without, near, harmful)
    print(f"{len(prompts)} of {len(rows)} prompts are asked; left out: {left_out or 'none'}", flush=True)
    return prompts, left_out


def prompt_rows(path: str | Path) -> list[PromptRow]:
    """Return the rows of a data set of kind evaluation or prompts; those of kind prompts count as harmless."""
    harmless = {"request": None, "target": "", "harmful": False, "category": ""}
    return [{**harmless, **row} for row in read_parquet(path).to_pylist()]


def usable_prompts(
    rows: Iterable[PromptRow], without: Mapping[str, Collection[str]], near: Near | None, harmful: bool = True
) -> tuple[list[PromptRow], dict[str, int]]:
    """Return the prompts to ask, each once, and the numbers of others by reason.

    With `harmful` only harmful prompts are asked, otherwise only harmless ones. `without` has the prompts
    (`rebend.io.prompts.prompts_in`) of each data set whose prompts are left out.
    """
    left_out: Counter[str] = Counter()
    close = near.left_out() if near else {}
    seen: set[str] = set()
    kept = []
    for row in rows:
        (prompt,) = prompts_in(row["messages"])
        named = next((name for name, prompts in without.items() if prompt in prompts), None)
        if row["harmful"] != harmful:
            left_out["harmful prompt" if row["harmful"] else "harmless prompt"] += 1
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
