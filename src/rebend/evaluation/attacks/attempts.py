"""What attacks on a prompt share: the text they aim at, and the names of their tries."""

from __future__ import annotations

from typing import Any

from rebend.generation.generate import Response

Row = dict[str, Any]
Tries = list[list[Response | None]]  # per prompt, one response per attempt; None where the context has no room


def aim(row: Row, target: str) -> str:
    """Return the text that an attack on a row aims at: the data's own, or else the block's."""
    return row["target"] or target


def attempt_key(row: Row, attempt: int) -> str:
    """Return the name of an attempt's random numbers; attempt 0 has those of a prompt that is asked once."""
    return f"{row['row_id']}/{attempt}" if attempt else row["row_id"]
