"""Tables of made-up studies, and parts that tests of several tables share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from rebend.io.files import read_json, write_json
from rebend.report.tables.all import all_tables
from tests.helpers.study_factory import (
    PUBLISHED,
    prompts_cell,
    prompts_data,
)

CAPTIONS = Path(__file__).parents[2] / "workflow" / "report" / "figures.rst"
CLAIM = {
    "text": "Bending works", "table": "gains", "column": "estimate", "at_least": 0.9, "at_most": None,
    "where": {"compares": "adapter", "control": "none", "group": "unseen item", "attack": "direct"},
}  # fmt: skip
# control -> (method, seconds, tokens returned, tokens generated, candidates scored, reward above that of none)
COSTS: dict[str, tuple[str, float, int, int, int, float]] = {
    "none": ("none", 2.0, 1000, 1000, 0, 0.0),
    "value": ("value", 2.2, 1000, 1000, 0, 1.0),
    "slow": ("value_prompting", 4.4, 1000, 1000, 0, 0.5),
    "best_of_4": ("best_of_n", 8.0, 1000, 4100, 0, 1.5),
    "search": ("cd_prefix", 6.0, 1000, 1000, 4100, 0.9),
}


def make_tables(cells: list[dict[str, Any]], **changes: Any) -> dict[str, pd.DataFrame]:
    """Return the tables of cells, by default without paper, claims and capabilities."""
    nothing = {"paper": None, "published": PUBLISHED, "claims": [], "capabilities": [], "chats": []}
    return all_tables({**nothing, "cells": cells, **changes})


def one_row(table: pd.DataFrame, **where: str) -> pd.Series:
    """Return the only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def timed_cells(folder: Path, adapter: str) -> list[dict[str, Any]]:
    """Return a cell per control of `COSTS`, with its times and counts of tokens."""
    data, cells = prompts_data(folder), []
    for control, (method, seconds, tokens, generated, candidates, shift) in COSTS.items():
        cell = prompts_cell(folder, data, "tiny", adapter, control, shift, method=method)
        record = read_json(cell["record"])
        record["notes"] = {"decode_seconds": seconds, "tokens": tokens}
        record["notes"] |= {"tokens_generated": generated, "candidates_scored": candidates}
        write_json(cell["record"], record)
        cells.append(cell)
    return cells
