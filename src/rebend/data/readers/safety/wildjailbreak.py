"""WildJailbreak (arXiv:2406.18510)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Row,
    UnselectedRowError,
    UnusableRowError,
    evaluation_row,
    optional_text,
    safety_pair,
    text,
    user_turn,
    word,
)


def safety(row: Row) -> list[Row]:
    """Return the safe and the unsafe answer to a harmful prompt; benign prompts are not selected.

    File: `wildjailbreak.jsonl` from RepBend's authors; in the hub's file a prompt has one answer.
    """
    if word(row, "prompt_type", ("harmful", "benign")) != "harmful":
        raise UnselectedRowError("prompt_type is not harmful")
    return safety_pair(user_turn(text(row, "prompt")), text(row, "harmless_answer"), text(row, "harmful_answer"))


def evaluation(row: Row) -> list[Row]:
    """Return a jailbreak prompt of the evaluation file; `data_type`, or else `label` (1), marks harmful prompts.

    The hub's `eval/eval.tsv` has 2,000 harmful and 210 benign prompts. RepBend's paper states 210, but its printed
    rates are fractions of 250.
    """
    data_type = optional_text(row, "data_type")
    if data_type:
        word(row, "data_type", ("adversarial_harmful", "adversarial_benign"))
        harmful = data_type == "adversarial_harmful"
    else:
        label = word(row, "label", ("0", "1"))
        if label is None:
            raise UnusableRowError("no label")
        harmful = label == "1"
    return [evaluation_row(text(row, "adversarial"), harmful, group=data_type)]


WILDJAILBREAK = Reader(
    "wildjailbreak",
    "WildJailbreak: pairs of answers to harmful prompts; or its evaluation file",
    {"safety": safety, "evaluation": evaluation},
    {
        "safety": ("prompt", "prompt_type", "harmless_answer", "harmful_answer"),
        "evaluation": ("adversarial", "data_type|label"),
    },
)
