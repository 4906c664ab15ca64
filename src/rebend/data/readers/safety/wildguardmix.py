"""WildGuardMix (arXiv:2406.18495)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Row,
    UnselectedRowError,
    UnusableRowError,
    evaluation_row,
    optional_text,
    safety_row,
    text,
    user_turn,
    word,
)

_HARM = ("harmful", "unharmful")
_REFUSAL = ("refusal", "compliance")
# The selection of RepBend's released code: every compliance with a harmful prompt is an unsafe answer, also if the
# response is labelled unharmful.
_SAFE = {("unharmful", "compliance", "unharmful"), ("harmful", "refusal", "unharmful")}
_UNSAFE = ("harmful", "compliance")
_GROUPS = {"true": "adversarial", "True": "adversarial", "false": "vanilla", "False": "vanilla"}  # by `adversarial`


def safety(row: Row) -> list[Row]:
    """Return a single safe or unsafe answer, with the published selection of labels.

    The released code then draws 10,000 answers of each class with Python's `random.seed(0)` and `random.sample`. A
    block with `rows: 10000` draws as many of each class in another way, so the answers differ.
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
    return [safety_row(user_turn(text(row, "prompt")), text(row, "response"), label)]


def by_prompt(row: Row) -> list[Row]:
    """Return a row whose class is that of its prompt, whatever the response, as released for modes that read prompts.

    The response may be missing; it is "" then.
    """
    harm = word(row, "prompt_harm_label", _HARM)
    if harm is None:
        raise UnselectedRowError("no prompt_harm_label")
    label = "unsafe" if harm == "harmful" else "safe"
    return [safety_row(user_turn(text(row, "prompt")), optional_text(row, "response"), label)]


def evaluation(row: Row) -> list[Row]:
    """Return a prompt and whether it is harmful, without the answer, which another model gave.

    As in safety-eval, prompts are left out if the annotators did not agree on the answer's harm. The 749 remaining
    harmful prompts fit RepBend's printed rates.
    """
    harm = word(row, "prompt_harm_label", _HARM)
    if harm is None:
        raise UnusableRowError("no prompt_harm_label")
    if "response_harm_label" in row and word(row, "response_harm_label", _HARM) is None:
        raise UnselectedRowError("no response_harm_label")
    group = _GROUPS.get(word(row, "adversarial", tuple(_GROUPS)) or "", "")
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
WILDGUARDMIX_PROMPTS = Reader(
    "wildguardmix_prompts",
    "WildGuardMix, each row with the class of its prompt alone: for RepBend's modes `prompt_last` and `prompt_all`",
    {"safety": by_prompt},
    {"safety": ("prompt", "prompt_harm_label")},
    optional={"safety": ("response",)},
)
