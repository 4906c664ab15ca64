"""Text models inside multimodal checkpoints (Gemma-3, Mistral-3, Llava, Qwen-VL): taken out, as own checkpoints.

A multimodal checkpoint has the sizes of its text model in a part of its configuration, names its weights otherwise, and
holds vision blocks beside the decoder blocks. After the text model is taken out, nothing else in the library needs to
know of multimodal models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, Qwen2Config, Qwen3Config

from rebend.errors import ModelError
from rebend.io.files import write_json
from rebend.models.remote_code import runs_code

# Text parts without a causal language model of their own. With text alone, the three positions of their rotary
# embedding are equal, so that it is the ordinary one.
_SAME_AS = {"qwen2_vl_text": Qwen2Config, "qwen2_5_vl_text": Qwen2Config, "qwen3_vl_text": Qwen3Config}
_PREFIXES = (("model.language_model.", "model."), ("language_model.", ""))  # of names in files → of the text model
_HEAD = "lm_head.weight"


def is_multimodal(config: PretrainedConfig) -> bool:
    """Return whether a configuration wraps that of a text model."""
    return config.get_text_config(decoder=True) is not config and not config.is_encoder_decoder


def take_text_model(folder: Path, weight_files: list[str]) -> dict[str, Any]:
    """Replace the multimodal checkpoint in `folder` by its text model; a text model stays unchanged.

    Links to weights become files with the text model's tensors, in the stored types; the sources are not changed.
    Returns facts for the record ({} for a text model). Raises `ModelError` if transformers has no class for the text
    model, or if the files do not have exactly its weights.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=runs_code(folder))
    if not is_multimodal(config):
        return {}
    text = _text_config(config, folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    sources = [(folder / name).resolve() for name in weight_files]
    for name in [*weight_files, *(path.name for path in folder.glob("*.index.json"))]:
        (folder / name).unlink()
    stored = _write_weights(folder, sources, set(expected))
    tied = _HEAD not in stored
    missing = expected.keys() - stored.keys() - ({_HEAD} if tied else set())
    unlike = sorted(missing | {name for name in stored if stored[name] != expected[name]})
    if unlike:
        raise ModelError(
            f"{folder}: the text model of {config.model_type} cannot be taken out: {len(unlike)} of its weights are "
            f"absent or have other shapes: {unlike[:4]}"
        )
    text.tie_word_embeddings = tied
    text.architectures = [type(model).__name__]
    write_json(folder / "config.json", text.to_dict())
    return {"taken_out_of": config.model_type}


def _text_config(config: PretrainedConfig, folder: Path) -> PretrainedConfig:
    """Return the configuration of the text model as a causal language model."""
    text = config.get_text_config(decoder=True)
    dtype = text.dtype or config.dtype
    if text.model_type in _SAME_AS:
        values = text.to_dict()
        rope = {key: value for key, value in values["rope_parameters"].items() if not key.startswith("mrope")}
        left_out = ("model_type", "rope_parameters", "architectures")
        kept = {key: value for key, value in values.items() if key not in left_out}
        text = _SAME_AS[text.model_type](**kept, rope_parameters=rope)
    if type(text) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"{folder}: is a multimodal model ({config.model_type}) whose text model ({text.model_type}) is no causal "
            "language model of transformers; use a checkpoint of a text model"
        )
    text.dtype = dtype
    return text


def _write_weights(folder: Path, sources: list[Path], names: set[str]) -> dict[str, tuple[int, ...]]:
    """Write the tensors of the text model, one file at a time; return their shapes by name.

    A file of the source without tensors of the text model gives no file.
    """
    used = [file for file in sources if any(_text_name(stored) in names for stored in _stored_names(file))]
    places: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for number, file in enumerate(used, start=1):
        tensors = {_text_name(stored): tensor.contiguous() for stored, tensor in _tensors(file).items()}
        part = {name: tensor for name, tensor in tensors.items() if name in names}
        place = f"model-{number:05d}-of-{len(used):05d}.safetensors" if len(used) > 1 else "model.safetensors"
        save_file(part, folder / place, metadata={"format": "pt"})
        places |= dict.fromkeys(part, place)
        shapes |= {name: tuple(tensor.shape) for name, tensor in part.items()}
    if len(used) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return shapes


def _text_name(stored: str) -> str:
    """Return the name in the text model of a tensor of the multimodal model."""
    return next((new + stored.removeprefix(old) for old, new in _PREFIXES if stored.startswith(old)), stored)


def _stored_names(file: Path) -> list[str]:
    if file.suffix == ".bin":
        return list(_tensors(file))
    with safe_open(file, "pt") as stream:
        return list(stream.keys())


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".bin":
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return load_file(file)
