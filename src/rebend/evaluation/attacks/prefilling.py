"""Prefilling attack: the response begins with the target text, and the model continues it.

In RepBend's released evaluation the judge reads the continuation alone (`variant: released_code`). Rates differ: a
continuation may be harmful only together with the target.

Source: arXiv:2504.01550, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebend.config.safety import PrefillingBlock
from rebend.evaluation.attacks.attempts import (
    AttackResult,
    AttackSetup,
    PromptRow,
    answer_prompts,
    harmful_rows,
    target_of,
)
from rebend.generation.requests import Response


def attack(rows: Sequence[PromptRow], settings: PrefillingBlock, setup: AttackSetup) -> AttackResult:
    """Decode `attempts` responses per harmful prompt, each beginning with target and suffix.

    With `variant: released_code`, the responses are the continuations, and no prefill is recorded.
    """
    harmful = harmful_rows(rows)
    prompts = [[row["messages"]] * settings.attempts for row in harmful]
    prefills = [target_of(row, settings.target) + settings.suffix for row in harmful]
    result = answer_prompts(setup, harmful, prompts, prefills)
    if settings.variant == "corrected":
        return result
    pairs = zip(prefills, result.attempts, strict=True)
    attempts = [[_continuation(response, prefill) for response in of_prompt] for prefill, of_prompt in pairs]
    return replace(result, attempts=attempts, prefills=[""] * len(harmful))


def _continuation(response: Response | None, prefill: str) -> Response | None:
    return response and replace(response, text=response.text.removeprefix(prefill))
