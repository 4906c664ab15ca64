"""Persuasive adversarial prompts (arXiv:2401.06373)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text


def evaluation(row: Row) -> list[Row]:
    """Return a persuasive adversarial prompt and the plain question that it rephrases (arXiv:2401.06373).

    File: `adv_bench_sub_gpt4.jsonl` of CHATS-Lab/Persuasive-Jailbreaker-Data, 50 prompts; RepBend's rates fit 320.
    """
    prompt, request = text(row, "ss_prompt"), text(row, "bad_q")
    return [evaluation_row(prompt, True, category=optional_text(row, "ss_category"), request=request)]


PAP = Reader(
    "pap",
    "persuasive adversarial prompts, in their authors' file",
    {"evaluation": evaluation},
    {"evaluation": ("ss_prompt", "bad_q")},
    optional={"evaluation": ("ss_category",)},
)
