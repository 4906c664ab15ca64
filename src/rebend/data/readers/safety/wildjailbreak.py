"""WildJailbreak (arXiv:2406.18510)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Source,
    UnselectedRowError,
    UnusableRowError,
    asked,
    evaluation_row,
    optional_text,
    safety_pair,
    text,
    word,
)


def safety(row: Source) -> list[Source]:
    """The safe and the unsafe answer to a harmful prompt; benign prompts are not selected.

    File: the `wildjailbreak.jsonl` that RepBend's authors offer for download; on the hub a prompt has one answer.
    """
    if word(row, "prompt_type", ("harmful", "benign")) != "harmful":
        raise UnselectedRowError("prompt_type is not harmful")
    return safety_pair(asked(text(row, "prompt")), text(row, "harmless_answer"), text(row, "harmful_answer"))


def evaluation(row: Source) -> list[Source]:
    """A jailbreak prompt of the evaluation file; `data_type` says whether it is harmful, else `label` (1 is).

    The hub's `eval/eval.tsv` has 2,000 harmful and 210 benign prompts, and RepBend states 210; its printed rates
    are fractions of 250.
    """
    kind = optional_text(row, "data_type")
    if kind:
        known = word(row, "data_type", ("adversarial_harmful", "adversarial_benign"))
        harmful = known == "adversarial_harmful"
    else:
        label = word({"label": optional_text(row, "label")}, "label", ("0", "1"))
        if label is None:
            raise UnusableRowError("no label")
        harmful = label == "1"
    return [evaluation_row(text(row, "adversarial"), harmful, group=kind)]


WILDJAILBREAK = Reader(
    "wildjailbreak",
    "WildJailbreak: pairs of answers to harmful prompts; or its evaluation file",
    {"safety": safety, "evaluation": evaluation},
    {
        "safety": ("prompt", "prompt_type", "harmless_answer", "harmful_answer"),
        "evaluation": ("adversarial", "data_type|label"),
    },
)
