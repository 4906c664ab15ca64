"""WildGuardMix (arXiv:2406.18495)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Source,
    UnselectedRowError,
    UnusableRowError,
    asked,
    evaluation_row,
    optional_text,
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


def safety(row: Source) -> list[Source]:
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


def evaluation(row: Source) -> list[Source]:
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


WILDGUARDMIX = Reader(
    "wildguardmix",
    "WildGuardMix: the selection of safe and unsafe answers that RepBend was trained on; or its prompts",
    {"safety": safety, "evaluation": evaluation},
    {
        "safety": ("prompt", "response", "prompt_harm_label", "response_harm_label", "response_refusal_label"),
        "evaluation": ("prompt", "prompt_harm_label"),
    },
    optional={"evaluation": ("adversarial", "subcategory", "response_harm_label")},
)
