"""Several evaluation data sets as one."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rebend.data.overlap import prompts_in


def join(tables: Sequence[pa.Table]) -> tuple[pa.Table, int]:
    """Return the rows of all tables in their order, and the number of rows whose prompt is in an earlier row."""
    joined = pa.concat_tables(tables)
    seen: set[str] = set()
    kept = []
    for number, messages in enumerate(joined["messages"].to_pylist()):
        prompts = set(prompts_in(messages))
        if not prompts & seen:
            kept.append(number)
        seen |= prompts
    return joined.take(kept), joined.num_rows - len(kept)
