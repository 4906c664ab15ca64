"""Sample unsafe answers from a model, put a safe answer beside each, and return both as rows of kind safety."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import pyarrow as pa

from rebend.config.datasets import SampledPairsBlock
from rebend.data.readers.rows import content_id, safety_pair
from rebend.errors import DataError
from rebend.evaluation.judges.safety.verdict import HARMFUL, REFUSAL
from rebend.evaluation.sampled_pairs.prompts import PromptRow
from rebend.evaluation.sampled_pairs.refusals import dealt
from rebend.evaluation.sampled_pairs.sampling import Sampler, answer_facts, left_out_text, sample_answers
from rebend.io.schemas import SAFETY
from rebend.models.chat import Message, UnwritableError, prompt_text, with_instruction


def sample_pairs(
    block: SampledPairsBlock, rows: Sequence[PromptRow], sampler: Sampler, refusals: Sequence[str]
) -> tuple[pa.Table, dict[str, Any]]:
    """Return pairs of a safe and an unsafe answer (schema SAFETY, in the order of `rows`), and facts for the record.

    Each kept unsafe answer gives one pair. The safe answer is one of `refusals`, or with `block.safe.instruction` a
    refusal of the model; then prompts that the model never refuses give no pair. Raises `DataError` with the numbers of
    answers by reason if there are fewer pairs than `block.least`.
    """
    limits = (block.answers_per_prompt, block.tries)
    unsafe = sample_answers(sampler, rows, HARMFUL, *limits, name="unsafe", prefill=block.prefill)
    answered = [row for row in rows if unsafe.kept[row["row_id"]]]
    facts = answer_facts("unsafe", unsafe) | {"prompts_with_unsafe_answer": len(answered)}
    if block.safe.instruction is None:
        order = dealt(refusals, block.seed)
        safe = {row["row_id"]: list(islice(order, len(unsafe.kept[row["row_id"]]))) for row in answered}
    else:
        written = _Instructed(sampler, answered, block.safe.instruction)
        refused = sample_answers(sampler, answered, REFUSAL, *limits, name="safe", as_asked=written)
        safe = refused.kept
        facts |= answer_facts("safe", refused) | {"instruction_as": written.place}
    lines = [line for row in answered for line in _lines(row, safe[row["row_id"]], unsafe.kept[row["row_id"]])]
    facts = {"rows": len(lines), "pairs": len(lines) // 2, "prompts": len(rows), **facts}
    if len(lines) // 2 < block.least:
        raise DataError(_too_few(block, facts))
    return pa.Table.from_pylist(lines, schema=SAFETY), facts


class _Instructed:
    """Puts the safety instruction into prompts, as a system turn if the chat template writes one."""

    def __init__(self, sampler: Sampler, rows: Sequence[PromptRow], instruction: str) -> None:
        self.instruction = instruction
        self.place = "system turn"
        try:
            for row in rows[:1]:
                prompt_text(sampler.policy.tokenizer, self._with_system(row))
        except UnwritableError:
            self.place = "in front of the prompt"

    def __call__(self, row: PromptRow) -> list[Message]:
        if self.place == "system turn":
            return self._with_system(row)
        return with_instruction(row["messages"], self.instruction)

    def _with_system(self, row: PromptRow) -> list[Message]:
        turns = [turn for turn in row["messages"] if turn["role"] != "system"]
        return [{"role": "system", "content": self.instruction}, *turns]


def _lines(row: PromptRow, safe: Sequence[str], unsafe: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the two rows of each pair of one prompt; the safe answers are used again if there are fewer of them."""
    for safe_answer, unsafe_answer in zip(cycle(safe), unsafe, strict=False):
        for line in safety_pair(row["messages"], safe_answer, unsafe_answer):
            yield {**line, "row_id": content_id(line)}


def _too_few(block: SampledPairsBlock, facts: dict[str, Any]) -> str:
    parts = [left_out_text(name, facts) for name in ("unsafe", "safe") if f"{name}_samples" in facts]
    return (
        f"`least: {block.least}` pairs are asked for, and {facts['pairs']} were kept from {facts['prompts']} prompts "
        f"of {', '.join(block.prompts)} ({'; '.join(parts)}). More `tries`, a `prefill`, more prompts or another "
        "temperature may give more; or lower `least`"
    )
