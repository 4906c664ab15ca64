"""Functions for the rules of several files: paths of sources, resources of models, code of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rebend.config.base import Block, Resources
from rebend.config.catalogue import CATALOGUE
from rebend.config.datasets import DataSource
from rebend.config.load import Config
from rebend.data.assets import block_assets
from rebend.pipeline.graph import paths

Paths = str | list[str]


def local_path(config: Config, path: str) -> str:
    """Return a path of the catalogue; relative paths start at the `data` folder."""
    return str(Path(path) if Path(path).is_absolute() else config.data / path)


def manifests(block: Block) -> list[str]:
    """Return the manifests of the assets that a block names."""
    return [paths.asset(asset.name) for asset in block_assets(block)]


def code_of(section: str, block: Any) -> list[str]:
    """Return the import path of a block's method."""
    methods = CATALOGUE[section]
    assert isinstance(methods, dict)
    return [methods[block.method].code]


def names_of_method(config: Config, section: str, *methods: str) -> list[str]:
    """Return the names of a section's blocks with one of these methods."""
    return [name for name, block in config[section].items() if block.method in methods]


def model_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of a job with a (base or adapted) model."""
    return config["models"][base_of(wildcards)].resources


def base_of(wildcards: Any) -> str:
    """Return the base model's name: the wildcard `base`, or the first part of `model`."""
    return wildcards.get("base") or paths.base_and_adapter(wildcards.model)[0]


def dtype(config: Config, wildcards: Any) -> str:
    """Return the dtype of a (base or adapted) model."""
    return config["models"][base_of(wildcards)].dtype


def local_file(config: Config, source: DataSource | None) -> str | None:
    """Return the path of a local source if the file exists."""
    path = local_path(config, source.local) if source and source.local else None
    return path if path and Path(path).is_file() else None


def local_files(config: Config, block: Any) -> list[str]:
    """Return the files of a block's local folder; [] if it is missing, which is said before the first job."""
    if not block.local:
        return []
    folder = Path(local_path(config, block.local))
    return sorted(str(file) for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []


def encoder_folder(config: Config, name: str) -> Paths:
    """Return the folder of an encoder; an encoder inside a Python package has none."""
    return [] if config["encoders"][name].package else paths.encoder(name)
