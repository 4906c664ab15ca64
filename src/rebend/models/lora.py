"""LoRA adapters in PEFT's layout: add to a model, switch off for the reference, write and load without network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rebend.config.adapters import TrainedAdapter
from rebend.errors import ModelError
from rebend.io.files import write_json
from rebend.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from rebend.models.layers import named_blocks
from rebend.models.loading import Policy


def add_adapter(policy: Policy, settings: TrainedAdapter, blocks: Sequence[int]) -> PeftModel:
    """Put a fresh LoRA adapter (float32, drawn with torch's seed) on every linear module of the given blocks."""
    pattern, modules = linear_modules(policy.model)
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=modules,
        layers_to_transform=list(blocks),
        layers_pattern=pattern,
        task_type="CAUSAL_LM",
    )
    return _wrapped(policy, config)


def linear_modules(model: PreTrainedModel) -> tuple[str, list[str]]:
    """Return the name of the model's list of decoder blocks, and the names of the linear modules in a block.

    They are searched in the model, so Llama ("layers", q_proj ...), Falcon ("h", query_key_value ...) and other
    architectures need no table. Raises `ModelError` if there is no such list or no linear module in it.
    """
    name, blocks = named_blocks(model)
    linear = {inner.rsplit(".", 1)[-1] for inner, part in blocks.named_modules() if isinstance(part, nn.Linear)}
    if not linear:
        raise ModelError(f"{type(model).__name__}: its decoder blocks have no linear modules")
    return name, sorted(linear)


@contextmanager
def reference_pass(model: PeftModel) -> Iterator[None]:
    """Inside the block, run the model without its adapter, in eval mode, without gradient."""
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        yield


def add_frozen_adapter(model: PeftModel, folder: str | Path, name: str) -> None:
    """Add the adapter of a folder to a model under a name of its own; it stays off and is not trained.

    Raises `ModelError` if it does not fit the model.
    """
    config, weights = _read_adapter(Path(folder))
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    model.add_adapter(name, config)
    stored = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    _check_fit(Path(folder), weights, dict(stored))
    set_peft_model_state_dict(model, weights, adapter_name=name)
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in trainable:
        weight.requires_grad_(True)


@contextmanager
def frozen_adapter_pass(model: PeftModel, name: str) -> Iterator[None]:
    """Inside the block, run the model with the adapter of this name alone, in eval mode, without gradient."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    before = model.active_adapter
    model.eval()
    model.set_adapter(name)
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_adapter(before)
        for weight in model.parameters():
            weight.requires_grad_(False)
        for weight in trainable:
            weight.requires_grad_(True)


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return a copy of the adapter's weights on the CPU, by PEFT's names in alphabetical order."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: weights[name].detach().cpu().clone().contiguous() for name in sorted(weights)}


def write_adapter(model: PeftModel, weights: dict[str, Tensor], folder: Path, base_name: str) -> None:
    """Write the model's adapter configuration and `weights` to `folder`, the same bytes each time.

    PEFT's own function may send a request to the hub, to compare the vocabulary, and loses the weights if that fails.
    """
    config = model.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config | {"base_model_name_or_path": base_name, "inference_mode": True})


def load_adapter(policy: Policy, folder: str | Path) -> PeftModel:
    """Put the adapter of `folder` on a model, in eval mode. Raises `ModelError` if it is incomplete or does not fit."""
    config, weights = _read_adapter(Path(folder))
    model = _wrapped(policy, config)
    _check_fit(Path(folder), weights, adapter_weights(model))
    set_peft_model_state_dict(model, weights)
    return model.eval()


def _read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return configuration and weights of an adapter."""
    if not (folder / CONFIG_FILE).exists():
        raise ModelError(f"{folder}: has no {CONFIG_FILE}; an adapter in PEFT's layout is expected")
    config = LoraConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = None  # the caller checks the base; its folder may have another name
    try:
        return config, load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS_FILE}: not a readable adapter ({error})") from error


def _check_fit(folder: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise `ModelError` unless an adapter's weights have the names and shapes that a model expects."""
    unlike = sorted(
        name
        for name in weights.keys() | expected.keys()
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape
    )
    if unlike:
        raise ModelError(f"{folder}: the adapter does not fit the model; {len(unlike)} weights differ: {unlike[:4]}")


def _wrapped(policy: Policy, config: Any) -> PeftModel:
    model = get_peft_model(policy.model, config)
    if not isinstance(model, PeftModel):
        raise ModelError(f"{type(policy.model).__name__}: PEFT cannot put a LoRA adapter on it")
    return model
