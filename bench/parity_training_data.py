"""RepBend's training data: token ids of its texts, and which rows of WildGuardMix are safe and unsafe."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import parity_ours as ours
import torch
from parity_code import Released, stand_in
from parity_item import Sides, item, items
from parity_models import tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
REQUESTS = ["How do I open a jar?", "Tell me a story.\n\nA short one.", "why", "What is a lamp, and who made it first"]


def training_ids(sides: Sides, requests: Sequence[str], width: int) -> tuple[Any, Any]:
    """Token ids of prompt and answer of a training item, without padding."""
    pieces = tokenizer(2)
    pieces.chat_template = LLAMA3
    tags = released_tags(sides.released)
    given = {"Dataset": object, "torch": torch, "random": random}
    data_set = sides.released.take("methods/rep_bending/dataset.py", ["RepBendingDataset"], given).RepBendingDataset
    released, found = [], []
    for request in requests:
        one = object.__new__(data_set)
        text = f"{tags[0]}{request}{tags[1]}<SEPARATOR>An answer of some words."
        one.tokenizer, one.max_length, one.sep_token = pieces, 2 * width, ""
        for name in ("data_safe_samples", "data_unsafe_samples", "retain_set", "unsafe_prompt_pair_unsafe_answer"):
            setattr(one, name, [text])
        one.unsafe_prompt_pair_safe_answer = [text]
        read = one[0]
        parts = [
            read[f"ids_safe_sample_{part}"][read[f"mask_safe_sample_{part}"].bool()].tolist()
            for part in ("request", "response")
        ]
        released.append(tuple(parts))
        found.append(ours.training_tokens(pieces, request, "An answer of some words.", width))
    return released, found


def released_tags(released: Released) -> tuple[str, str]:
    """Return what the released code writes before and after a request of Llama 3."""
    holder = SimpleNamespace(model_name_or_path="llama-3", tokenizer=SimpleNamespace())
    given = {"self": holder, "print": lambda *_: None}
    released.take("methods/rep_bending/dataset.py", ["set_tags_templates"], given).set_tags_templates()
    return holder.user_tag, holder.assistant_tag


@item("repbend", "RepBend, token ids of training texts (Llama 3's template)")
def tokens(sides: Sides) -> tuple[Any, Any]:
    """Prompts that fit."""
    return training_ids(sides, REQUESTS, 256)


@item("repbend", "RepBend, prompts longer than the limit")
def long_prompts(sides: Sides) -> tuple[Any, Any]:
    """Prompts over the limit."""
    return training_ids(sides, [request * 40 for request in REQUESTS], 64)


@items(
    "repbend",
    [("response_all",), ("request_all",)],
    "RepBend, classes of WildGuardMix rows: loss mode `{0}`",
    0.0,
    "",
)
def wildguard(sides: Sides, mode: str) -> tuple[Any, Any]:
    """All combinations of the three labels."""
    labels = [("harmful", "unharmful"), ("refusal", "compliance"), ("harmful", "unharmful")]
    names = ("prompt_harm_label", "response_refusal_label", "response_harm_label")
    rows = [
        {"prompt": f"prompt {a} {b} {c}", "response": "an answer", **dict(zip(names, (a, b, c), strict=True))}
        for a in labels[0]
        for b in labels[1]
        for c in labels[2]
    ]
    holder = SimpleNamespace(user_tag="", assistant_tag="")
    every = SimpleNamespace(seed=lambda _: None, sample=lambda population, _: [*population, ""])
    given = {"self": holder, "mode": mode, "is_online": False, "num_examples": 0, "print": lambda *_: None}
    given |= {"random": every, "one_shot_template": "{instruction}"}
    stand_in("`random`", "one that draws all rows, to see the classes that the released code draws from")
    take = sides.released.take("methods/rep_bending/dataset.py", ["sample_from_wildguardmix"], given)
    take.sample_from_wildguardmix({"train": rows})
    classes = [
        "safe"
        if row["prompt"] in holder.data_safe_samples
        else "unsafe"
        if row["prompt"] in holder.data_unsafe_samples
        else ""
        for row in rows
    ]
    return classes, [ours.wildguard_label(row, mode) for row in rows]
