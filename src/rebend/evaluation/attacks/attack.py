"""Attacks: what is done to a prompt, or put into the model's mouth, so that a harmful request is answered.

An attack other than `direct` is made on harmful prompts alone, and may try several times: a prompt's
completions are told apart by `attempt`. The attacker knows the model, but not the control on its states:
attacks are made against the model alone, and their completions are decoded under the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.config.decoding import Decoding
from rebend.config.safety import AttackBlock, DirectBlock, EmbeddingBlock, GcgBlock, PrefillingBlock
from rebend.evaluation.attacks.attempts import Row, Tries, aim, attempt_key
from rebend.evaluation.attacks.embedding import embedding_completions
from rebend.evaluation.attacks.gcg import gcg_prompts
from rebend.generation.generate import Response, generate
from rebend.generation.intervention import Control
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import COMPLETIONS
from rebend.models.chat import Message
from rebend.models.loading import Policy


def attack(
    policy: Policy, rows: Sequence[Row], attack: AttackBlock, decoding: Decoding, control: Control, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return completions (schema COMPLETIONS) of an evaluation data set under an attack, and counts for the record.

    Attempts of a prompt stand together, in their order. A prompt without room in the context has a null
    response in each. What was finished before a kill is found again in `parts`.
    """
    attacked = [row for row in rows if row["harmful"] or isinstance(attack, DirectBlock)]
    decoding = decoding.model_copy(update={"seed": decoding.seed + attack.seed})
    prefills = [
        aim(row, attack.target) + attack.suffix if isinstance(attack, PrefillingBlock) else "" for row in attacked
    ]
    notes: dict[str, Any] = {}
    if isinstance(attack, EmbeddingBlock):
        found, notes = embedding_completions(policy, attacked, attack, decoding, control, parts)
    else:
        prompts = [[row["messages"]] * attack.attempts for row in attacked]
        if isinstance(attack, GcgBlock):
            prompts, notes = gcg_prompts(policy, attacked, attack, decoding, control, parts.within("search"))
        found = _answers(policy, attacked, prompts, prefills, decoding, control, parts)
    lines = [
        _line(row, attempt, prefill, response)
        for row, prefill, tries in zip(attacked, prefills, found, strict=True)
        for attempt, response in enumerate(tries)
    ]
    return pa.Table.from_pylist(lines, COMPLETIONS), {**_counts(found), **notes}


def _answers(
    policy: Policy,
    rows: Sequence[Row],
    prompts: Sequence[Sequence[Sequence[Message]]],
    prefills: Sequence[str],
    decoding: Decoding,
    control: Control,
    parts: ChunkStore,
) -> Tries:
    """Return a response to each of a row's prompts, with random numbers of its own."""
    tries = [(i, attempt) for i, asked in enumerate(prompts) for attempt in range(len(asked))]
    found = generate(
        policy,
        [prompts[i][attempt] for i, attempt in tries],
        decoding,
        prefills=[prefills[i] for i, _ in tries],
        keys=[attempt_key(rows[i], attempt) for i, attempt in tries],
        control=control,
        parts=parts,
    )
    in_order = iter(found)
    return [[next(in_order) for _ in asked] for asked in prompts]


def _line(row: Row, attempt: int, prefill: str, response: Response | None) -> dict[str, Any]:
    return {
        "row_id": row["row_id"],
        "response": response and response.text,
        "n_tokens": len(response.token_ids) if response else 0,
        "finish": response and response.finish,
        "edit_norm": response.edit_norm if response else 0.0,
        "attempt": attempt,
        "prefill": prefill,
    }


def _counts(found: Tries) -> dict[str, Any]:
    """Return what the record says about any attack."""
    responses = [response for tries in found for response in tries if response]
    return {
        "prompts_attacked": len(found),
        "tokens": sum(len(response.token_ids) for response in responses),
        "tokens_clipped": sum(response.n_clipped for response in responses),
        "prompts_without_room": sum(None in tries for tries in found),
    }
