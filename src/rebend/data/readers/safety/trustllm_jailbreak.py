"""TrustLLM's jailbreak prompts (arXiv:2401.05561)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Source, evaluation_row, optional_text, text


def evaluation(row: Source) -> list[Source]:
    """A request that TrustLLM disguised (arXiv:2401.05561); `label` names the disguise, in a list.

    File: the hub's allenai/tulu-3-trustllm-jailbreaktrigger-eval, which is safety-eval's task
    `trustllm_jailbreaktrigger`: the 400 prompts of RepBend's rates. TrustLLM's own `safety/jailbreak.json` has
    the same columns and more prompts.
    """
    label = row["label"]
    if isinstance(label, list):
        label = label[0] if label else ""
    group = optional_text(row, "source")
    return [evaluation_row(text(row, "prompt"), True, group=group, category="" if label is None else str(label))]


TRUSTLLM_JAILBREAK = Reader(
    "trustllm_jailbreak",
    "TrustLLM's jailbreak prompts",
    {"evaluation": evaluation},
    {"evaluation": ("prompt", "label")},
    optional={"evaluation": ("source",)},
)
