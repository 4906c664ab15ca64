"""Evaluation data sets joined to one."""

from __future__ import annotations

import pyarrow as pa

from rebend.data.joined import join
from rebend.io.schemas import EVALUATION


def table(**prompts: str) -> pa.Table:
    rows = [
        {"row_id": row_id, "messages": [{"role": "user", "content": text}], "harmful": True, "target": "", "group": ""}
        for row_id, text in prompts.items()
    ]
    return pa.Table.from_pylist(rows, EVALUATION)


def test_rows_stay_in_order_and_a_prompt_stays_once() -> None:
    joined, repeated = join([table(a="zor it", b="vak it"), table(c="Zor  it", d="bim it"), table(e="bim it")])
    assert joined["row_id"].to_pylist() == ["a", "b", "d"] and repeated == 2
    assert joined.schema.equals(EVALUATION)
