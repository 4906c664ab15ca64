"""Data sets of one kind joined to one."""

from __future__ import annotations

import pyarrow as pa

from rebend.data.joined import join
from rebend.io.schemas import CHAT, EVALUATION


def table(**prompts: str) -> pa.Table:
    rows = [
        {"row_id": row_id, "messages": [{"role": "user", "content": text}], "harmful": True, "target": "", "group": ""}
        for row_id, text in prompts.items()
    ]
    return pa.Table.from_pylist(rows, EVALUATION)


def test_rows_stay_in_order_and_a_prompt_stays_once() -> None:
    joined, repeated = join(
        [table(a="zor it", b="vak it"), table(c="Zor  it", d="bim it"), table(e="bim it")], "evaluation"
    )
    assert joined["row_id"].to_pylist() == ["a", "b", "d"] and repeated == 2
    assert joined.schema.equals(EVALUATION)


def chat(*turns: str) -> dict[str, object]:
    roles = ("user", "assistant") * len(turns)
    return {
        "row_id": "/".join(turns),
        "messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)],
    }


def test_joined_chats_may_begin_alike_and_an_equal_chat_stays_once() -> None:
    first = [chat("zor it", "so"), chat("zor it", "thus"), chat("zor it", "so", "and", "more")]
    second = [chat("bim it", "so"), chat("zor it", "thus")]
    joined, repeated = join([pa.Table.from_pylist(rows, CHAT) for rows in (first, second)], "chat")
    assert joined["row_id"].to_pylist() == ["zor it/so", "zor it/thus", "zor it/so/and/more", "bim it/so"]
    assert repeated == 1 and joined.schema.equals(CHAT)
    again = [{**row, "row_id": f"{row['row_id']}-2"} for row in first]  # as rows that a file repeats are named
    assert join([pa.Table.from_pylist(rows, CHAT) for rows in (first, again)], "chat")[1] == 3
