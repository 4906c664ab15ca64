"""WildJailbreak (arXiv:2406.18510) and WildGuardMix (arXiv:2406.18495)."""

from __future__ import annotations

from rebend.data.readers.rows import (
    Source,
    UnselectedRowError,
    UnusableRowError,
    asked,
    evaluation_row,
    optional_text,
    safety_pair,
    safety_row,
    text,
    word,
)

_HARM = ("harmful", "unharmful")
_REFUSAL = ("refusal", "compliance")
# What RepBend's released code takes: an unsafe answer is any compliance with a harmful prompt,
# whatever the label of the response says.
_SAFE = {("unharmful", "compliance", "unharmful"), ("harmful", "refusal", "unharmful")}
_UNSAFE = ("harmful", "compliance")


def wildjailbreak_safety(row: Source) -> list[Source]:
    """The safe and the unsafe answer to a harmful prompt; benign prompts are not selected.

    File: the `wildjailbreak.jsonl` that RepBend's authors offer for download; on the hub a prompt has one answer.
    """
    if word(row, "prompt_type", ("harmful", "benign")) != "harmful":
        raise UnselectedRowError("prompt_type is not harmful")
    return safety_pair(asked(text(row, "prompt")), text(row, "harmless_answer"), text(row, "harmful_answer"))


def wildjailbreak_evaluation(row: Source) -> list[Source]:
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


def wildguardmix_safety(row: Source) -> list[Source]:
    """A single safe or unsafe answer, by exactly the published selection of labels.

    The released code then takes 10,000 of each class with Python's `random.seed(0)` and `random.sample`; a block
    with `rows: 10000` takes as many of the same classes by a draw of its own, so other ones.
    """
    prompt_harm = word(row, "prompt_harm_label", _HARM)
    refusal = word(row, "response_refusal_label", _REFUSAL)
    response_harm = word(row, "response_harm_label", _HARM)
    if (prompt_harm, refusal, response_harm) in _SAFE:
        label = "safe"
    elif (prompt_harm, refusal) == _UNSAFE:
        label = "unsafe"
    else:
        raise UnselectedRowError("labels outside the published selection")
    return [safety_row(asked(text(row, "prompt")), text(row, "response"), label)]


def wildguardmix_evaluation(row: Source) -> list[Source]:
    """A prompt and whether it is harmful; its answer by another model is not a reference.

    Prompts whose answer the annotators could not agree on are left out, as safety-eval does: without them
    RepBend's printed rates are fractions of the 749 harmful prompts.
    """
    harm = word(row, "prompt_harm_label", _HARM)
    if harm is None:
        raise UnusableRowError("no prompt_harm_label")
    if "response_harm_label" in row and word(row, "response_harm_label", _HARM) is None:
        raise UnselectedRowError("no response_harm_label")
    group = {"true": "adversarial", "false": "vanilla"}.get(optional_text(row, "adversarial").lower(), "")
    category = optional_text(row, "subcategory")
    return [evaluation_row(text(row, "prompt"), harm == "harmful", group=group, category=category)]
