"""TrustLLM's jailbreak prompts (arXiv:2401.05561)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text


def evaluation(row: Row) -> list[Row]:
    """Return a jailbreak prompt (arXiv:2401.05561); `label` names the method of the jailbreak, in a list.

    File: allenai/tulu-3-trustllm-jailbreaktrigger-eval on the hub, safety-eval's task `trustllm_jailbreaktrigger`, with
    the 400 prompts of RepBend's rates. TrustLLM's `safety/jailbreak.json` has the same columns and more prompts.
    """
    label = row["label"]
    first = {"label": next(iter(label), None) if isinstance(label, list) else label}
    category, group = optional_text(first, "label"), optional_text(row, "source")
    return [evaluation_row(text(row, "prompt"), True, group=group, category=category)]


TRUSTLLM_JAILBREAK = Reader(
    "trustllm_jailbreak",
    "TrustLLM's jailbreak prompts",
    {"evaluation": evaluation},
    {"evaluation": ("prompt", "label")},
    optional={"evaluation": ("source",)},
)
