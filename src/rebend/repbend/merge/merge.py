"""Merge an adapter into its base model: a complete checkpoint, checked against base and adapter.

Weights are written one tensor at a time, in the order of the base's files, so merging needs the memory of the largest
tensor, not of the model.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from rebend.errors import ModelError
from rebend.io.files import read_json, whole_directory, write_json, write_text
from rebend.models.adapter_files import ADAPTER_FILE
from rebend.models.chat import Message
from rebend.models.loading import FINGERPRINT_FILE, fingerprint, revision, stamp, terms_files
from rebend.models.remote_code import runs_code
from rebend.repbend.merge.equivalence import (
    check_equivalence,
    does_nothing,
    equivalence_facts,
    expected_answers,
    merged_equivalence,
)
from rebend.repbend.merge.lora_delta import AdapterChanges, check_mergeable
from rebend.repbend.merge.model_card import model_card
from rebend.repbend.merge.weight_files import StoredTensor, main_dtype, stored_tensors, write_weights

_FROM_BASE = (".json", ".jinja", ".model", ".txt")
_NOT_FROM_BASE = ("config.json", "generation_config.json", "README.md", FINGERPRINT_FILE)


def merge_adapter(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    dtype: str,
    prompts: Sequence[Sequence[Message]] | None = None,
) -> dict[str, Any]:
    """Add the adapter of folder `adapter` to the weights of the model folder `base`; write the model to `out`.

    `out` is a complete checkpoint: safetensors in `dtype`, configuration and generation configuration, the base's
    tokenizer and licence files, a model card, a fingerprint. It is loaded again and compared with base and adapter on
    `prompts` (`equivalence.CHECK_PROMPTS` if None). An adapter whose effect is below rounding gives a warning. Returns
    facts for the record. Raises `ModelError`, without a folder `out`, if the adapter was trained on another base, does
    not fit or is no plain LoRA, or if the merged model differs from base and adapter.
    """
    base, adapter = Path(base), Path(adapter)
    trained = read_json(adapter / ADAPTER_FILE)
    base_fingerprint = fingerprint(base)
    if trained["base_fingerprint"] != base_fingerprint:
        raise ModelError(
            f"{adapter} was trained on a base with fingerprint {trained['base_fingerprint']} ('{trained['base']}'), "
            f"but {base} has {base_fingerprint}: an adapter fits only the weights that it was trained on"
        )
    check_mergeable(base, adapter)
    expected = expected_answers(base, adapter, dtype, prompts)
    with whole_directory(out) as folder:
        write_merged(base, adapter, folder, dtype)
        write_text(folder / "README.md", model_card(base, trained, base_fingerprint, dtype))
        merged_fingerprint = stamp(folder, revision(base))
        equivalence = merged_equivalence(expected, folder, dtype)
        check_equivalence(equivalence, expected.rounding, dtype)
    nothing = does_nothing(expected, dtype)
    if nothing:
        effect, rounding = expected.effect.kl, expected.rounding.kl
        print(
            f"WARNING: {adapter}: this adapter does nothing in {dtype}: its effect on the base (mean KL {effect:.2g} "
            f"nats per token) is not above that of rounding ({rounding:.2g}). Train it longer, or merge in float32",
            file=sys.stderr,
            flush=True,
        )
    facts = {"base_fingerprint": base_fingerprint, "fingerprint": merged_fingerprint, "adapter_does_nothing": nothing}
    return {**facts, **equivalence_facts(equivalence, expected)}


def write_merged(base: Path, adapter: Path, folder: Path, dtype: str) -> None:
    """Write the merged checkpoint without model card and fingerprint to `folder`, one tensor at a time.

    Tensors of the base's main type get `dtype`; tensors of other types keep theirs. A changed weight is rounded once:
    it is the base's weight in `dtype` plus the adapter's change in float32, rounded to `dtype`.
    """
    tensors = stored_tensors(base)
    main = main_dtype(tensors)
    changes = AdapterChanges(base, adapter, {tensor.name for tensor in tensors})

    def dtype_of(tensor: StoredTensor) -> torch.dtype:
        return getattr(torch, dtype) if tensor.dtype == main else tensor.dtype

    def read(tensor: StoredTensor) -> Tensor:
        return merged_tensor(tensor.read().to(dtype_of(tensor)), changes.of(tensor.name))

    write_weights(folder, tensors, dtype_of, read)
    _copy_small_files(base, folder)
    _write_configuration(base, folder, dtype)


def merged_tensor(weight: Tensor, change: Tensor | None) -> Tensor:
    """Return weight plus float32 change, rounded once to the weight's type. Overwrites `change`.

    Raises `ModelError` if the sum has an entry that is no finite number of that type.
    """
    if change is None:
        return weight
    merged = change.add_(weight).to(weight.dtype)
    if not torch.stack(merged.aminmax()).isfinite().all():  # both are NaN if any is
        raise ModelError(f"a merged weight is not a finite {weight.dtype}: adapter or base is damaged, or too large")
    return merged


def _write_configuration(base: Path, folder: Path, dtype: str) -> None:
    """Write the base's configuration with the new type, and its generation configuration or the default one."""
    config = read_json(base / "config.json")
    kept = {key: value for key, value in config.items() if key not in ("torch_dtype", "_name_or_path")}
    write_json(folder / "config.json", kept | {"dtype": dtype})
    if (base / "generation_config.json").exists():
        shutil.copyfile(base / "generation_config.json", folder / "generation_config.json")
    else:
        GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=runs_code(folder))
        ).save_pretrained(folder)


def _copy_small_files(base: Path, folder: Path) -> None:
    """Copy tokenizer, chat template, licence and other small files from the base, without the index of its weights."""
    suffixes = (*_FROM_BASE, ".py") if runs_code(base) else _FROM_BASE
    small = [
        file
        for file in base.iterdir()
        if file.is_file() and file.suffix in suffixes and not file.name.endswith(".index.json")
    ]
    for file in sorted({*small, *terms_files(base)}):
        if file.name not in _NOT_FROM_BASE:
            shutil.copyfile(file, folder / file.name)
