"""A warning for tables whose rewards come from a reward model that is not above chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.io.files import read_json
from rebend.report.formatting import interval

COLUMN = "reward_warning"  # of tables with rewards, only if there is a warning
TABLES = ("recontrol", "gains", "frontier")


def reward_warning(rewards: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the reward models that are not above chance on held-out pairs; "" if there are none.

    `rewards` has the name and the record's path of each reward model that was trained here.
    """
    notes = [(entry["reward"], read_json(entry["record"])["notes"]) for entry in rewards]
    doubtful = [
        f"{name} {interval(n['held_out_accuracy'], *n['held_out_accuracy_interval'], percent=True)} % of "
        f"{n['held_out_pairs']} pairs"
        for name, n in notes
        if n.get("held_out_at_chance")
    ]
    if not doubtful:
        return ""
    return (
        f"Not above chance (50 %) on held-out preference pairs: reward model {'; '.join(doubtful)}. What such a model "
        "scores, and what is trained or chosen on its rewards, says nothing about preferences."
    )


def with_warning(tables: dict[str, pd.DataFrame], warning: str) -> None:
    """Add the warning, if there is one, as a column to the tables with rewards, so that their files keep it."""
    for name in TABLES if warning else ():
        tables[name] = tables[name].assign(**{COLUMN: warning})


def warning_of(table: pd.DataFrame) -> list[str]:
    """Return the warning of a table as a list of one sentence, or none."""
    return [str(text) for text in table[COLUMN].unique()[:1]] if COLUMN in table else []
