"""The cluster of each prompt: what it has in common with others, so that intervals do not count it as independent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rebend.data.readers.rows import content_id
from rebend.io.schemas import KINDS

FIELD = "cluster"


def add_clusters(kind: str, rows: Iterable[dict[str, Any]]) -> None:
    """Set `cluster` of each row to 16 hexadecimal digits, if the kind has this column.

    It is a digest of a text without case and white space: the reader's `cluster` if it gives one, else the plain
    request inside a jailbreak, else the first user turn. One question has the same cluster in every data set.
    """
    for row in rows:
        given = row.pop(FIELD, None)
        if FIELD in KINDS[kind].names:
            row[FIELD] = content_id(" ".join((given or row.get("request") or _first_turn(row)).lower().split()))


def _first_turn(row: dict[str, Any]) -> str:
    return next(str(turn["content"]) for turn in row["messages"] if turn["role"] == "user")
