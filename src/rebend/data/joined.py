"""Several data sets of one kind, evaluation or chat, as one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from rebend.io.prompts import prompts_in


def join(tables: Sequence[pa.Table], kind: str) -> tuple[pa.Table, int]:
    """Return the rows of all tables in their order, and the number of rows that were left out as repeated.

    A row of kind evaluation is repeated if its prompt is in an earlier row, a row of kind chat if all its turns are
    those of an earlier row; different chats may begin with the same prompt.
    """
    joined = pa.concat_tables(tables)
    seen: set[str] = set()
    kept = []
    for number, row in enumerate(joined.select(["row_id", "messages"]).to_pylist()):
        keys = {json.dumps(row["messages"])} if kind == "chat" else set(prompts_in(row["messages"]))
        if not keys & seen:
            kept.append(number)
        seen |= keys
    return joined.take(kept), joined.num_rows - len(kept)
