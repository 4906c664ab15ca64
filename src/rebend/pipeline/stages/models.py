"""Inputs, settings and resources of the rules in `models.smk`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rebend.config.base import Resources, settings
from rebend.config.load import Config
from rebend.config.models import ModelBlock
from rebend.config.rewards import TinyReward, TrainedReward, endpoint_options
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.common import local_files, local_path, manifests


def names_with(config: Config, section: str, key: str) -> list[str]:
    """Return the names of a section's blocks that have a value under `key`."""
    return [name for name, block in config[section].items() if getattr(block, key)]


def prepared_checkpoints(config: Config) -> dict[str, Any]:
    """Return folder below `results/` → block, for every checkpoint from the hub, a package, a local folder or file."""
    return {
        f"{shelf}/{name}": block
        for shelf, section in paths.SHELVES.items()
        for name, block in config[section].items()
        if getattr(block, "hub", None) or getattr(block, "local", None) or _is_gguf(block)
    }


def _is_gguf(block: Any) -> bool:
    return isinstance(block, ModelBlock) and block.from_gguf


def checkpoint_files(config: Config, wildcards: Any) -> list[str]:
    """Return the files of a local model: if a file changes, the model is prepared again."""
    block = prepared_checkpoints(config)[wildcards.place]
    file = local_path(config, block.gguf) if getattr(block, "gguf", None) else None
    if file is None:
        return local_files(config, block)
    return [file] if Path(file).is_file() else []  # a missing file is named before the first job


def checkpoint_assets(config: Config, wildcards: Any) -> list[str]:
    """Return the manifests of a checkpoint's assets."""
    return manifests(prepared_checkpoints(config)[wildcards.place])


def checkpoint_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `prepare_model`: the source of the checkpoint, and its requirements."""
    block = prepared_checkpoints(config)[wildcards.place]
    template = getattr(block, "chat_template", None)  # a file of the workflow, not of the data
    local = block.local or getattr(block, "gguf", None)
    return {
        "chat": wildcards.place.startswith("models/"),
        "format": "gguf" if _is_gguf(block) else "hub folder",
        "hub": block.hub and block.hub.model_dump(),
        "local": local and local_path(config, local),
        "chat_template": template and Path(template).read_text(encoding="utf-8"),
        "template": template_rules(block),
        "n_layers": getattr(block, "n_layers", None),
    }


def checkpoint_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of `prepare_model`, which needs no GPU; it loads only the weights of a GGUF file."""
    block = prepared_checkpoints(config)[wildcards.place]
    return Resources(mem_mb=block.resources.mem_mb if _is_gguf(block) else None, runtime=120)


def template_rules(block: Any) -> dict[str, Any]:
    """Return the fields of `rebend.models.chat_template.TemplateRules`; {} for a checkpoint that gets no chats."""
    if not isinstance(block, ModelBlock):
        return {}
    return {
        "arguments": block.template_arguments,
        "date": block.template_date,
        "bos": block.template_bos,
        "variant": block.variant,
    }


def tiny_model_data(config: Config, wildcards: Any) -> list[str]:
    """Return the data sets that a tiny model is trained on."""
    return [paths.data(name) for name in config["models"][wildcards.model].tiny.datasets]


def tiny_model_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `train_tiny_model`."""
    return settings(config["models"][wildcards.model].tiny)


def trained_rewards(config: Config) -> dict[str, TinyReward | TrainedReward]:
    """Return reward model → settings, for every reward model that the graph trains."""
    found = {name: block.tiny or block.trained for name, block in config["rewards"].items()}
    return {name: block for name, block in found.items() if block is not None}


def reward_base(config: Config, wildcards: Any) -> str:
    """Return the model that a trained reward model starts from."""
    return paths.model(trained_rewards(config)[wildcards.reward].model)


def reward_pairs(config: Config, wildcards: Any) -> str:
    """Return the data set that a reward model is trained on."""
    return paths.data(trained_rewards(config)[wildcards.reward].dataset)


def reward_held_out(config: Config, wildcards: Any) -> list[str]:
    """Return the data set of a reward model's held-out pairs; none if they are drawn from the first."""
    held_out = getattr(trained_rewards(config)[wildcards.reward], "held_out", None)
    return [paths.data(held_out)] if held_out else []


def reward_training_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `train_reward_model`."""
    block = trained_rewards(config)[wildcards.reward]
    return {"kind": "tiny" if isinstance(block, TinyReward) else "trained", "reward": settings(block)}


def reward_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of a stage that uses a reward model."""
    return {"reward": settings(config["rewards"][wildcards.reward])}


def response_reward_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `score_reward`."""
    return {**reward_settings(config, wildcards), "stop": config["controls"][wildcards.control].reward_stop}


def reward_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of the function that loads a reward model."""
    return [config["rewards"][wildcards.reward].code]


def reward_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of a job with a reward model."""
    return config["rewards"][wildcards.reward].resources


def reward_endpoint_options(config: Config, wildcards: Any) -> str:
    """Return timeout, concurrency and retries of a reward model's endpoint."""
    return endpoint_options([config["rewards"][wildcards.reward]])
