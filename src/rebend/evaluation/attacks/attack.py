"""Run an attack on a model and return its completions as a table.

An attack changes a prompt, the model's input or the beginning of the response so that the model answers a harmful
request. Every attack except `direct` uses only the harmful prompts. An attack may make several attempts per prompt;
the column `attempt` numbers them. The attacker knows the model but not a control on its hidden states: attacks are
optimised against the model without control, and their completions are decoded under the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.config.decoding import Decoding
from rebend.config.safety import ATTACKS, AttackBlock
from rebend.evaluation.attacks.attempts import AttackResult, AttackSetup, Attempts, PromptRow
from rebend.generation.intervention import Control
from rebend.generation.requests import Response
from rebend.io.chunks import ChunkStore
from rebend.io.registry import load_code
from rebend.io.schemas import COMPLETIONS
from rebend.models.loading import Policy


def run_attack(
    policy: Policy,
    rows: Sequence[PromptRow],
    settings: AttackBlock,
    decoding: Decoding,
    control: Control,
    parts: ChunkStore,
    examples: Sequence[PromptRow] = (),
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the completions of an evaluation data set under an attack (schema COMPLETIONS), and counts for the record.

    The attempts of a prompt are adjacent and in order. A prompt that exceeds the model's context has a null response
    in every attempt. `parts` keeps finished work, so that a killed job can resume. `examples` are the rows of the data
    set that the attack's settings name, if they name one.
    """
    decoding = decoding.model_copy(update={"seed": decoding.seed + settings.seed})
    result: AttackResult = load_code(ATTACKS[settings.method].code)(
        rows, settings, AttackSetup(policy, decoding, control, parts, examples)
    )
    lines = [
        _line(row, attempt, prefill, response)
        for row, prefill, responses in zip(result.rows, result.prefills, result.attempts, strict=True)
        for attempt, response in enumerate(responses)
    ]
    return pa.Table.from_pylist(lines, COMPLETIONS), {**_counts(result.attempts), **result.notes}


def _line(row: PromptRow, attempt: int, prefill: str, response: Response | None) -> dict[str, Any]:
    return {
        "row_id": row["row_id"],
        "response": response and response.text,
        "n_tokens": len(response.token_ids) if response else 0,
        "finish": response and response.finish,
        "edit_norm": response.edit_norm if response else 0.0,
        "attempt": attempt,
        "prefill": prefill,
    }


def _counts(attempts: Attempts) -> dict[str, Any]:
    """Return the counts in the record of every attack."""
    responses = [response for of_prompt in attempts for response in of_prompt if response]
    return {
        "prompts_attacked": len(attempts),
        "tokens": sum(len(response.token_ids) for response in responses),
        "tokens_clipped": sum(response.n_clipped for response in responses),
        "prompts_without_room": sum(None in of_prompt for of_prompt in attempts),
    }
