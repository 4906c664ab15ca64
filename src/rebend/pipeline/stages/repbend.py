"""Inputs, settings, resources and code of the rules in `repbend.smk`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rebend.config.adapters import TrainedAdapter, WhpBlock
from rebend.config.base import Resources, settings
from rebend.config.load import Config
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.common import code_of, dtype, local_files, local_path, manifests, model_resources


def trained_names(config: Config) -> list[str]:
    """Return the names of the adapters that `train_adapter` trains."""
    return [name for name, block in config["adapters"].items() if isinstance(block, TrainedAdapter)]


def training_data(config: Config, key: str, wildcards: Any) -> str:
    """Return the data set under a key of an adapter."""
    return paths.data(getattr(config["adapters"][wildcards.adapter], key))


def reinforced_adapter(config: Config, wildcards: Any) -> list[str]:
    """Return the folder of the adapter that a method compares with; none for most methods."""
    block = config["adapters"][wildcards.adapter]
    return [paths.adapter(wildcards.base, block.reinforced)] if isinstance(block, WhpBlock) else []


def training_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `train_adapter`."""
    return {"adapter": settings(config["adapters"][wildcards.adapter]), "dtype": dtype(config, wildcards)}


def training_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of the training of an adapter: one GPU per rank if the model needs a GPU."""
    of_model = model_resources(config, wildcards)
    return of_model.model_copy(update={"gpu": of_model.gpu and config["adapters"][wildcards.adapter].ranks})


def ranks(config: Config, wildcards: Any) -> int:
    """Return the number of processes that train an adapter."""
    return config["adapters"][wildcards.adapter].ranks


def zero_config(config: Config, folder: Path, wildcards: Any) -> str:
    """Return the path of DeepSpeed's configuration for an adapter; "" if it trains without DeepSpeed."""
    stage = config["adapters"][wildcards.adapter].zero
    return str(folder / f"zero{stage}.json") if stage else ""


def adapter_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of an adapter's method."""
    return code_of("adapters", config["adapters"][wildcards.adapter])


def adapter_files(config: Config, wildcards: Any) -> list[str]:
    """Return the files of a released adapter in a local folder."""
    return local_files(config, config["adapters"][wildcards.adapter])


def adapter_assets(config: Config, wildcards: Any) -> list[str]:
    """Return the manifests of a released adapter's assets."""
    return manifests(config["adapters"][wildcards.adapter])


def released_adapter_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `prepare_adapter`: the source of the adapter."""
    block = config["adapters"][wildcards.adapter]
    return {**settings(block), "local": block.local and local_path(config, block.local)}


def combined_adapters(config: Config, wildcards: Any) -> list[str]:
    """Return the folders of the adapters that task arithmetic adds."""
    return [paths.adapter(wildcards.base, part.adapter) for part in config["adapters"][wildcards.adapter].parts]


def combination_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `combine_adapters`."""
    return settings(config["adapters"][wildcards.adapter])


def merge_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `merge_adapter`."""
    return {"base": wildcards.base, "adapter": wildcards.adapter, "dtype": dtype(config, wildcards)}


def projection_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `project_hidden_states`: the layer, and the longest answer in tokens."""
    block = config["adapters"][wildcards.adapter]
    longest = getattr(block, "max_length", 512)
    return {"hidden_index": block.middle_target(), "max_length": longest, "dtype": dtype(config, wildcards)}
