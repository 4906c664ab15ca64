"""Merging a bend into its base: a complete checkpoint that is just another model, checked against the adapter."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebend.adapters import load_adapter
from rebend.bends import BEND_FILE
from rebend.errors import ModelError
from rebend.models import FINGERPRINT_FILE, fingerprint, load_policy, stamp
from rebend.prompts import prompt_text
from rebend.storage import read_json, whole_directory, write_text

CHECK_PROMPTS = (
    "Hello! Who are you?",
    "How do I boil an egg?",
    "Name three rivers and the seas that they end in.",
    "Write a short letter in which someone asks for a day off.",
    "What is 17 times 23? Answer with the number alone.",
    "Why does ice float on water?",
)
# Of the largest logit, how much may differ, and how many of the greedy choices must agree. In float32 only the
# order of additions differs; 16-bit weights are rounded once more when the adapter is added to them.
TOLERANCES = {"float32": (1e-3, 0.99), "float16": (2e-2, 0.95), "bfloat16": (1e-1, 0.90)}
_FROM_BASE = (".json", ".jinja", ".model", ".txt")
_NOT_FROM_BASE = ("config.json", "generation_config.json", FINGERPRINT_FILE)


@dataclass(frozen=True)
class Equivalence:
    """How well the merged model agrees with base and adapter."""

    max_logit_difference: float  # largest absolute difference, raw logits
    largest_logit: float  # largest absolute logit of base and adapter
    greedy_agreement: float  # rate of positions at which both choose the same token
    positions: int


def merge_bend(base: str | Path, adapter: str | Path, out: str | Path, dtype: str) -> dict[str, Any]:
    """Write the model folder `base` with the bend of folder `adapter` added to its weights, as folder `out`.

    `out` is a complete checkpoint: safetensors in `dtype`, configuration and generation configuration, the base's
    tokenizer files as they are, a short model card, a fingerprint. What has been written is loaded again and
    compared with base and adapter on some prompts. Returns facts for the record.
    Raises `ModelError` if the adapter was trained on another base, does not fit, or the two disagree.
    """
    base, adapter = Path(base), Path(adapter)
    bend = read_json(adapter / BEND_FILE)
    found = fingerprint(base)
    if bend["base_fingerprint"] != found:
        raise ModelError(
            f"{adapter} was trained on a base with fingerprint {bend['base_fingerprint']} ('{bend['base']}'), "
            f"but {base} has {found}: an adapter fits only the weights that it was trained on"
        )
    policy = load_policy(base, dtype)
    adapted = load_adapter(policy, adapter)
    expected = prompt_logits(policy.tokenizer, adapted)
    with whole_directory(out) as folder:
        adapted.merge_and_unload(safe_merge=True).save_pretrained(folder)
        del policy, adapted
        _copy_tokenizer(base, folder)
        write_text(folder / "README.md", _card(base.name, bend, dtype))
        mark = stamp(folder)
        merged = load_policy(folder, dtype)
        equivalence = compare(expected, prompt_logits(merged.tokenizer, merged.model))
        check_equivalence(equivalence, dtype)
    return {"base_fingerprint": found, "fingerprint": mark, **asdict(equivalence)}


@torch.no_grad()
def prompt_logits(tokenizer: Any, model: Any, prompts: Sequence[str] = CHECK_PROMPTS) -> list[Tensor]:
    """Logits at every position of some prompts, float32 on CPU, `[T, V]` each; the model in eval mode."""
    logits = []
    for prompt in prompts:
        text = prompt_text(tokenizer, [{"role": "user", "content": prompt}])
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
        logits.append(model(input_ids=tokens, use_cache=False).logits[0].float().cpu())
    return logits


def compare(expected: Sequence[Tensor], merged: Sequence[Tensor]) -> Equivalence:
    """Compare two lists of logits, `[T, V]` each."""
    old, new = torch.cat(list(expected)), torch.cat(list(merged))
    return Equivalence(
        max_logit_difference=(old - new).abs().max().item(),
        largest_logit=old.abs().max().item(),
        greedy_agreement=(old.argmax(-1) == new.argmax(-1)).double().mean().item(),
        positions=old.shape[0],
    )


def check_equivalence(found: Equivalence, dtype: str) -> None:
    """Raise `ModelError` unless logits and greedy choices agree within what `dtype` allows."""
    share, agreement = TOLERANCES[dtype]
    allowed = share * found.largest_logit
    # Written so that a NaN fails too.
    if not (found.max_logit_difference <= allowed and found.greedy_agreement >= agreement):
        raise ModelError(
            "the merged model is not the base with its adapter: "
            f"logits differ by up to {found.max_logit_difference:.3g} (allowed in {dtype}: {allowed:.3g}), "
            f"greedy choices agree at a rate of {found.greedy_agreement:.3f} (needed: {agreement}), "
            f"over {found.positions} positions"
        )


def _copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy tokenizer, chat template and what else is small from the base; never its index of weight files."""
    for file in sorted(base.iterdir()):
        small = file.is_file() and file.suffix in _FROM_BASE and not file.name.endswith(".index.json")
        if small and file.name not in _NOT_FROM_BASE:
            shutil.copyfile(file, folder / file.name)


def _card(base_name: str, bend: dict[str, Any], dtype: str) -> str:
    settings = bend["settings"]
    lines = "\n".join(f"- {key}: {value}" for key, value in settings.items())
    return (
        f"---\nbase_model: {base_name}\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"# {base_name}, bent\n\n"
        f"The model `{base_name}` (fingerprint {bend['base_fingerprint']}) with a {settings['method']} adapter "
        f"(representation bending, arXiv:2504.01550) merged into its weights, stored as {dtype}. "
        f"Trained on the data sets `{settings['samples']}`, `{settings['pairs']}` and `{settings['retain']}`. "
        "The licence of the base model and those of the data sets apply.\n\n"
        f"Settings:\n\n{lines}\n"
    )
