"""Task arithmetic (arXiv:2212.04089, sections 2 and 3) on LoRA adapters: a weighted sum of task vectors.

    W = W_base + Σ λ_i τ_i,    τ_i = s · B_i A_i,    s = lora_alpha / r

A task vector τ is the change of the weights by fine-tuning (section 2). A LoRA adapter holds this change as s · B A, so
the sum needs no base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rebend.config.adapters import TaskArithmeticBlock
from rebend.errors import ModelError
from rebend.io.files import read_json, whole_directory, write_json
from rebend.models.adapter_files import ADAPTER_FILE, CONFIG_FILE, WEIGHTS_FILE

_DOWN, _UP = ".lora_A.", ".lora_B."
_MAY_DIFFER = ("base_model_name_or_path", "lora_dropout")  # keys without effect on the change of the weights
Weights = Mapping[str, Tensor]  # an adapter's weights by PEFT's names
Config = Mapping[str, Any]  # a JSON file of an adapter


def combine_adapters(folders: Sequence[str | Path], settings: TaskArithmeticBlock, out: str | Path) -> dict[str, Any]:
    """Write the weighted sum of the adapters in `folders` as an adapter, to the folder `out`.

    `folders` are in the order of `settings.parts`. The sum is exact (see `combined`). The file `adapter.json` also
    holds those of the parts. Returns facts for the record. Raises `ModelError` if the parts were trained on different
    bases, or if their configurations differ.
    """
    sources = [Path(folder) for folder in folders]
    adapters = [read_json(source / ADAPTER_FILE) for source in sources]
    configs = [read_json(source / CONFIG_FILE) for source in sources]
    _check_alike(sources, adapters, configs)
    factors = [part.factor for part in settings.parts]
    weights = combined(list(zip([load_file(source / WEIGHTS_FILE) for source in sources], factors, strict=True)))
    scale = {key: configs[0][key] * len(sources) for key in ("r", "lora_alpha")}
    facts = {key: adapters[0][key] for key in ("base", "base_fingerprint", "dtype")}
    with whole_directory(out) as folder:
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(folder / CONFIG_FILE, {**configs[0], **scale})
        write_json(folder / ADAPTER_FILE, {**facts, "settings": settings.model_dump(), "parts": adapters})
    return {"base_fingerprint": facts["base_fingerprint"], "rank": scale["r"]}


def _check_alike(sources: Sequence[Path], adapters: Sequence[Config], configs: Sequence[Config]) -> None:
    """Raise `ModelError` unless the adapters have one base model and one configuration."""
    for source, adapter, config in zip(sources, adapters, configs, strict=True):
        if adapter["base_fingerprint"] != adapters[0]["base_fingerprint"]:
            raise ModelError(
                f"{source} was trained on a base with fingerprint {adapter['base_fingerprint']}, {sources[0]} on one "
                f"with {adapters[0]['base_fingerprint']}: only changes of the same weights can be added up"
            )
        keys = sorted((config.keys() | configs[0].keys()) - set(_MAY_DIFFER))
        if unlike := [key for key in keys if config.get(key) != configs[0].get(key)]:
            raise ModelError(f"{source} and {sources[0]} differ in {', '.join(unlike)}: they cannot be added up")


def combined(parts: Sequence[tuple[Weights, float]]) -> dict[str, Tensor]:
    """Return the adapter whose change is the sum of factor times change, over pairs of adapter and factor.

    Ranks are concatenated, so the sum is exact: n parts of rank r with scale s = lora_alpha / r give an adapter of rank
    n · r, with the same s if its lora_alpha is n times as large. Raises `ModelError` if an adapter has weights other
    than lora_A and lora_B, which cannot be scaled by a factor, or if the adapters are not on the same modules.
    """
    names = sorted(parts[0][0])
    for weights, _ in parts:
        unknown = sorted(name for name in weights if _DOWN not in name and _UP not in name)
        if unknown:
            raise ModelError(f"task arithmetic needs an adapter of lora_A and lora_B alone; it also has {unknown[:4]}")
        if unlike := sorted(weights.keys() ^ set(names)):
            raise ModelError(f"task arithmetic needs adapters on the same modules; not in both: {unlike[:4]}")
    return {
        name: torch.cat([weights[name] if _DOWN in name else weights[name] * factor for weights, factor in parts], dim)
        for name in names
        for dim in [0 if _DOWN in name else 1]
    }
