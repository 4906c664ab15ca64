"""Merging an adapter into its base: a complete checkpoint that is just another model, checked against the adapter.

The weights are written one tensor after the other, in the order of the base's files, so that merging takes the
memory of the base's largest tensor and not of the model.
"""

from __future__ import annotations

import shutil
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
from rebend.repbend.merge.equivalence import check_equivalence, equivalence_facts, expected_answers, merged_equivalence
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
    """Write the model folder `base` with the adapter of folder `adapter` added to its weights, as folder `out`.

    `out` is a complete checkpoint: safetensors in `dtype`, configuration and generation configuration, the base's
    tokenizer and terms as they are, a model card, a fingerprint. What has been written is loaded again and
    compared with base and adapter on `prompts` (`merge_gate.CHECK_PROMPTS` if None). Returns facts for the record.
    Raises `ModelError` if the adapter was trained on another base, does not fit, is no plain LoRA, or if the two
    disagree; then there is no folder `out`.
    """
    base, adapter = Path(base), Path(adapter)
    trained = read_json(adapter / ADAPTER_FILE)
    found = fingerprint(base)
    if trained["base_fingerprint"] != found:
        raise ModelError(
            f"{adapter} was trained on a base with fingerprint {trained['base_fingerprint']} ('{trained['base']}'), "
            f"but {base} has {found}: an adapter fits only the weights that it was trained on"
        )
    check_mergeable(base, adapter)
    expected = expected_answers(base, adapter, dtype, prompts)
    with whole_directory(out) as folder:
        write_merged(base, adapter, folder, dtype)
        write_text(folder / "README.md", model_card(base, trained, found, dtype))
        mark = stamp(folder, revision(base))
        equivalence = merged_equivalence(expected, folder, dtype)
        check_equivalence(equivalence, expected.rounding, dtype)
    return {"base_fingerprint": found, "fingerprint": mark, **equivalence_facts(equivalence, expected)}


def write_merged(base: Path, adapter: Path, folder: Path, dtype: str) -> None:
    """Write all of the merged checkpoint but card and fingerprint to `folder`, reading one tensor at a time.

    Tensors of the base's main type get `dtype`; the few that a base keeps in another type stay as they are.
    A changed weight is what the adapted model computes with, rounded once: the base's in `dtype`, plus the
    adapter's change in float32, rounded to `dtype`.
    """
    tensors = stored_tensors(base)
    wanted, main = getattr(torch, dtype), main_dtype(tensors)
    changes = AdapterChanges(base, adapter, {tensor.name for tensor in tensors})

    def dtype_of(tensor: StoredTensor) -> torch.dtype:
        return wanted if tensor.dtype == main else tensor.dtype

    def read(tensor: StoredTensor) -> Tensor:
        return merged_tensor(tensor.read().to(dtype_of(tensor)), changes.of(tensor.name))

    write_weights(folder, tensors, dtype_of, read)
    _copy_small_files(base, folder)
    _write_configuration(base, folder, dtype)


def merged_tensor(weight: Tensor, change: Tensor | None) -> Tensor:
    """Add a float32 change, if there is one, to a weight of any floating type, and round once; uses `change` up.

    Raises `ModelError` if the sum is no finite number of that type.
    """
    if change is None:
        return weight
    merged = change.add_(weight).to(weight.dtype)
    if not torch.stack(merged.aminmax()).isfinite().all():  # both are NaN if any is
        raise ModelError(f"a merged weight is not a finite {weight.dtype}: adapter or base is damaged, or too large")
    return merged


def _write_configuration(base: Path, folder: Path, dtype: str) -> None:
    """Write the base's configuration with the new type, and its generation configuration or the implied one."""
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
    """Copy tokenizer, chat template, terms and what else is small from the base; never its index of weight files."""
    wanted = (*_FROM_BASE, ".py") if runs_code(base) else _FROM_BASE
    small = [
        file
        for file in base.iterdir()
        if file.is_file() and file.suffix in wanted and not file.name.endswith(".index.json")
    ]
    for file in sorted({*small, *terms_files(base)}):
        if file.name not in _NOT_FROM_BASE:
            shutil.copyfile(file, folder / file.name)
