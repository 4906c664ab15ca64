"""The change of each weight by a LoRA adapter, computed for one weight at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Embedding, Linear, LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rebend.errors import ModelError
from rebend.io.files import read_json
from rebend.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from rebend.models.remote_code import runs_code

# Keys of an adapter's configuration that do not change the formula, B·A times a scale. All other keys of PEFT, also of
# later versions, may change the formula or other weights; they are accepted only if their value means "off".
_PLAIN_KEYS = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",  # initial values only
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
Changed = Linear | Embedding  # modules whose changes can be merged
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # PEFT's other values change the base's weights


def check_mergeable(base: Path, adapter: Path) -> None:
    """Raise `ModelError` unless the base has plain weights and the adapter is a plain LoRA."""
    if read_json(base / "config.json").get("quantization_config"):
        raise ModelError(f"{base}: its weights are quantised (`quantization_config`); merge into the unquantised base")
    file = adapter / CONFIG_FILE
    if not file.exists():
        raise ModelError(f"{adapter}: has no {CONFIG_FILE}; an adapter in PEFT's layout is expected")
    config = read_json(file)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{file}: peft_type is {config.get('peft_type')!r}; only LORA can be merged")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise ModelError(
            f"{file}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base's weights. "
            f"Allowed: {_PLAIN_STARTS}"
        )
    if whole := _whole_modules(adapter, config):
        raise ModelError(
            f"{file}: the adapter replaces whole modules ({', '.join(whole)}), such as embeddings or heads, by "
            "`modules_to_save` or a changed vocabulary; only a plain LoRA (B·A times a scale) can be merged. Merge it "
            "with PEFT (`merge_and_unload`) and use the result as a model"
        )
    for key, value in config.items():
        if key not in _PLAIN_KEYS and key != "init_lora_weights" and value not in (None, False, "none", [], {}):
            raise ModelError(f"{file}: {key} is {value!r}: only a plain LoRA (B·A times a scale) can be merged")


def _whole_modules(adapter: Path, config: dict[str, Any]) -> list[str]:
    """Return the names of modules that an adapter replaces as a whole.

    PEFT also saves resized embeddings without a word in the configuration.
    """
    try:
        with safe_open(adapter / WEIGHTS_FILE, "pt") as stream:
            whole = {name for name in stream.keys() if ".lora_" not in name}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{adapter / WEIGHTS_FILE}: not a readable adapter ({error})") from error
    stored = {name.removesuffix(".weight").rsplit(".", 1)[-1] for name in whole}
    return sorted({*(config.get("modules_to_save") or []), *stored})


class AdapterChanges:
    """The changes of weights by an adapter, under the names of the weights in the base's files.

    PEFT decides modules and scales on a model without weights; the adapter's matrices are read one weight at a time.
    Raises `ModelError` if the adapter does not fit the base model.
    """

    def __init__(self, base: Path, adapter: Path, stored: set[str]) -> None:
        self.file = adapter / WEIGHTS_FILE
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=runs_code(base)),
                trust_remote_code=runs_code(base),
            )
        tied = skeleton.all_tied_weights_keys
        shared = set(tied) | set(tied.values())
        config = LoraConfig.from_pretrained(str(adapter))
        config.init_lora_weights = True
        config.base_model_name_or_path = None
        get_peft_model(skeleton, config, low_cpu_mem_usage=True)  # changes the skeleton in place
        self.modules: dict[str, tuple[str, Changed]] = {}
        for name, module in skeleton.named_modules():
            if isinstance(module, LoraLayer):
                self._add(name, module, stored, shared, skeleton.base_model_prefix)
        self._check_complete()

    def of(self, name: str) -> Tensor | None:
        """Return the change of a stored weight, in its shape, float32 on the CPU; None for an unchanged one."""
        if name not in self.modules:
            return None
        path, module = self.modules[name]
        with safe_open(self.file, "pt") as stream:
            for part, matrix in _parts(module):
                value = nn.Parameter(stream.get_tensor(_key(path, part)).float())
                if isinstance(matrix, nn.ParameterDict):
                    matrix["default"] = value
                else:
                    matrix["default"].weight = value
        with torch.no_grad():
            change = module.get_delta_weight("default")
        module.to("meta")
        return change

    def _add(self, path: str, module: LoraLayer, stored: set[str], shared: set[str], prefix: str) -> None:
        """Register the stored weight that a module of the model changes."""
        weight = f"{path}.weight"
        if not isinstance(module, (Linear, Embedding)):
            kind = type(module).__name__
            raise ModelError(
                f"{self.file}: '{path}' is neither a linear module nor embeddings ({kind}); only these can be merged"
            )
        if weight in shared:
            raise ModelError(
                f"{self.file}: '{weight}' is shared by the base's embeddings and its head, but the adapter changes "
                "only one of them: they cannot be merged"
            )
        # Names in a base's files have or lack the prefix of the model inside the causal model.
        for name in (weight, weight.removeprefix(f"{prefix}."), f"{prefix}.{weight}"):
            if name in stored:
                self.modules[name] = path, module
                return
        raise ModelError(
            f"{self.file}: the adapter changes '{weight}', which the base's files do not have: it is stored under "
            "another name, or in one tensor with others. Save the base with this version of transformers first"
        )

    def _check_complete(self) -> None:
        """Raise `ModelError` unless the file has exactly the two matrices of each module, in their shapes."""
        expected = {
            _key(path, part): tuple(next(matrix.parameters()).shape)
            for path, module in self.modules.values()
            for part, matrix in _parts(module)
        }
        try:
            with safe_open(self.file, "pt") as stream:
                stored = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{self.file}: not a readable adapter ({error})") from error
        unlike = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
        if unlike:
            raise ModelError(
                f"{self.file}: the adapter does not fit the model; {len(unlike)} weights differ: {unlike[:4]}"
            )


def _parts(module: Changed) -> tuple[tuple[str, nn.ModuleDict | nn.ParameterDict], ...]:
    names = ("lora_embedding_A", "lora_embedding_B") if isinstance(module, Embedding) else ("lora_A", "lora_B")
    return tuple((name, getattr(module, name)) for name in names)


def _key(path: str, part: str) -> str:
    """Return the name of a matrix in an adapter's file."""
    return f"base_model.model.{path}.{part}" + ("" if "embedding" in part else ".weight")
