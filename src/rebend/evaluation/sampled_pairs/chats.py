"""Sample answers of a model to harmless prompts, and return them as rows of kind chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.config.datasets import SampledChatsBlock
from rebend.data.readers.rows import content_id
from rebend.errors import DataError
from rebend.evaluation.judges.safety.verdict import HARMLESS
from rebend.evaluation.sampled_pairs.prompts import PromptRow
from rebend.evaluation.sampled_pairs.sampling import Sampler, answer_facts, left_out_text, sample_answers
from rebend.io.schemas import CHAT


def sample_chats(
    block: SampledChatsBlock, rows: Sequence[PromptRow], sampler: Sampler
) -> tuple[pa.Table, dict[str, Any]]:
    """Return one chat per prompt whose answer is kept (schema CHAT, in the order of `rows`), and facts for the record.

    Each prompt is asked once. An answer is kept if the judge calls it answered, and neither refused nor incoherent.
    Raises `DataError` with the numbers of answers by reason if there are fewer chats than `block.least`.
    """
    answers = sample_answers(sampler, rows, HARMLESS, 1, 1, name="harmless")
    chats = [
        [*row["messages"], {"role": "assistant", "content": answer}]
        for row in rows
        for answer in answers.kept[row["row_id"]]
    ]
    facts = {"rows": len(chats), "prompts": len(rows), **answer_facts("harmless", answers)}
    if len(chats) < block.least:
        raise DataError(
            f"`least: {block.least}` chats are asked for, and {len(chats)} were kept from {len(rows)} prompts of "
            f"{', '.join(block.prompts)} ({left_out_text('harmless', facts)}). More prompts, another `decoding` or "
            "another `model` may give more; or lower `least`"
        )
    lines = [{"row_id": content_id({"messages": chat}), "messages": chat} for chat in chats]
    return pa.Table.from_pylist(lines, schema=CHAT), facts
