"""GGUF files (llama.cpp's format of weights, configuration and tokenizer), converted to ordinary checkpoints.

transformers reads a GGUF file with the help of the package `gguf`. The weights are dequantised to float32, which holds
each dequantised value exactly as transformers computes it; the file's own rounding of the weights stays.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from rebend.errors import ModelError
from rebend.io.checksums import file_digest
from rebend.io.files import read_json, write_json, write_text
from rebend.models.loading import terms_files
from rebend.models.remote_code import runs_code

_PLAIN = frozenset({"F32", "F16", "BF16"})  # types without quantisation


def convert_gguf(file: Path, target: Path, licence: str | None = None) -> dict[str, Any]:
    """Fill the empty folder `target` with the checkpoint in a GGUF file; return facts for the record.

    Facts are the architecture, the licence that the file names, the quantised type that holds most weights
    (`quantisation`, e.g. "Q4_1"), the number of weights of each type, and the file's SHA-256. A model card states them,
    with the `licence`; licence files beside the GGUF file are copied. Raises `ModelError` for a file that is no
    complete GGUF file, for an architecture that transformers cannot read or that is no causal language model, for an
    unknown quantisation, and for missing weights.
    """
    if find_spec("gguf") is None:
        raise ModelError(f"{file}: GGUF files need the package gguf; install the extra: pip install '.[gguf]'")
    facts = gguf_facts(file)
    with TemporaryDirectory() as alone:  # transformers would prefer other files beside the GGUF file to its contents
        (Path(alone) / file.name).symlink_to(file.resolve())
        config = _config(alone, file, facts["architecture"])
        model: Any = _plain_model(alone, file, config)
        model.save_pretrained(target)
        _tokenizer(alone, file).save_pretrained(target)
    _drop_pieces_beyond(facts["tokens"], target / "tokenizer.json")
    for terms in terms_files(file.parent):
        shutil.copyfile(terms, target / terms.name)
    facts["gguf_sha256"] = file_digest(file)
    write_text(target / "README.md", _card(file.name, facts, licence or facts["licence"]))
    return facts


def gguf_facts(file: Path) -> dict[str, Any]:
    """Return architecture, licence, vocabulary size, main type and number of weights of each type in a GGUF file.

    Raises `ModelError` for a file that is not complete, or that has a type of weights which `gguf` cannot dequantise.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(f"{file}: no GGUF file that can be read, or of an unknown quantisation ({error})") from error
    counts: Counter[str] = Counter()
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    if unknown := sorted(name for name in counts if not _is_readable(name)):
        raise ModelError(
            f"{file}: its weights have the quantisation {', '.join(unknown)}, which cannot be read; choose another "
            "file of the model, e.g. with Q8_0 or Q4_K_M in its name"
        )
    architecture, licence = (reader.get_field(f"general.{key}") for key in ("architecture", "license"))
    pieces = reader.get_field("tokenizer.ggml.tokens")
    types = dict(counts.most_common())
    quantised = [name for name in types if name not in _PLAIN]
    return {
        "architecture": str(architecture.contents()) if architecture else None,
        "licence": str(licence.contents()) if licence else None,
        "tokens": len(pieces.data) if pieces else 0,
        "quantisation": next(iter(quantised or types), "none"),
        "weights_by_type": types,
    }


def _is_readable(name: str) -> bool:
    """Return whether weights of a type can be dequantised: try it with one block of zeros."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    if name in _PLAIN:
        return True
    kind = GGMLQuantizationType[name]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _config(folder: str, file: Path, architecture: str | None) -> PretrainedConfig:
    """Return the configuration in a GGUF file of a causal language model."""
    try:
        config = AutoConfig.from_pretrained(
            folder, gguf_file=file.name, local_files_only=True, trust_remote_code=runs_code(folder)
        )
    except (ValueError, KeyError, OSError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"{file}: transformers cannot read a GGUF file of the architecture '{architecture}' ({_reason(error)})"
        ) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(f"{file}: the architecture '{architecture}' is no causal language model")
    return config


def _plain_model(folder: str, file: Path, config: PretrainedConfig) -> nn.Module:
    """Return the model without traces of its quantisation, in float32; no weight is copied.

    transformers does not save a model that it has read from a GGUF file. Its weights therefore move into a new model.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, gguf_file=file.name, dtype=torch.float32, output_loading_info=True,
        local_files_only=True, trust_remote_code=runs_code(folder),
    )  # fmt: skip
    read, loading = loaded
    unlike = {*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])}
    if unlike:
        raise ModelError(
            f"{file}: {len(unlike)} weights of the model are absent or have other shapes, e.g. {sorted(unlike)[:3]}"
        )
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    clean = type(config).from_dict(settings)
    clean.dtype = torch.float32
    with torch.device("meta"):
        model: Any = type(read)(clean)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def _tokenizer(folder: str, file: Path) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, gguf_file=file.name, local_files_only=True, trust_remote_code=runs_code(folder)
        )
        for option in ("local_files_only", "is_local"):  # of this call, not of the tokenizer
            tokenizer.init_kwargs.pop(option, None)
        return tokenizer
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise ModelError(f"{file}: its tokenizer cannot be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _drop_pieces_beyond(size: int, file: Path) -> None:
    """Remove tokens that are not in the GGUF file: transformers adds `<|endoftext|>` to every byte-level vocabulary."""
    state = read_json(file)
    kept = [piece for piece in state["added_tokens"] if piece["id"] < size]
    if len(kept) < len(state["added_tokens"]):
        write_json(file, {**state, "added_tokens": kept})


def _card(name: str, facts: dict[str, Any], licence: str | None) -> str:
    """Return the model card of a converted file, with the licence and the quantisation in its front matter."""
    front = [f"license: {json.dumps(licence.lower())}"] if licence else []
    front.append(f"quantisation: {facts['quantisation']}")
    lines = "\n".join(f"- {kind}: {number:,} weights" for kind, number in facts["weights_by_type"].items())
    return (
        "---\n" + "\n".join(front) + f"\n---\n\n# {name}\n\n"
        f"Converted from the GGUF file `{name}` (SHA-256 {facts['gguf_sha256']}), architecture "
        f"{facts['architecture']}. Its weights were stored as {facts['quantisation']} and are dequantised to float32: "
        f"they keep the rounding of that type, so results differ from those of the original weights.\n\n{lines}\n"
    )
