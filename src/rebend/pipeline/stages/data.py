"""Inputs and settings of the rules in `data.smk`."""

from __future__ import annotations

from typing import Any

from rebend.config.base import settings
from rebend.config.datasets import READERS
from rebend.config.load import Config
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages.common import Paths, local_file, local_path, manifests


def dataset_source(config: Config, wildcards: Any) -> Paths:
    """Return the local file of a data set's source; `[]` if the source is not local or missing.

    A missing file is no input, so that a dry run resolves; `rebend.pipeline.checks.before_run` reports it before the
    first job.
    """
    return local_file(config, config["datasets"][wildcards.dataset].source) or []


def dataset_reference(config: Config, wildcards: Any) -> Paths:
    """Return the local file of a data set's second source; `[]` as for `dataset_source`."""
    return local_file(config, config["datasets"][wildcards.dataset].reference) or []


def dataset_assets(config: Config, wildcards: Any) -> list[str]:
    """Return the manifests of a data set's assets."""
    return manifests(config["datasets"][wildcards.dataset])


def dataset_without(config: Config, wildcards: Any) -> list[str]:
    """Return the data sets whose prompts are left out of a data set."""
    return [paths.data(name) for name in config["datasets"][wildcards.dataset].without]


def learnt_data(plan: Plan, wildcards: Any) -> list[str]:
    """Return the data sets that may share no prompt with a data set."""
    return [paths.data(name) for name in plan.kept_apart(wildcards.dataset)]


def overlap_settings(plan: Plan, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `check_overlap`."""
    return {"dataset": wildcards.dataset, "learnt": plan.kept_apart(wildcards.dataset)}


def dataset_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `prepare_dataset`, with resolved local paths."""
    block = settings(config["datasets"][wildcards.dataset])
    for source in (block["source"], block["reference"]):
        if source and source["local"]:
            source["local"] = local_path(config, source["local"])
    return {"name": wildcards.dataset, "block": block}


def dataset_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of a data set's reader."""
    return [READERS[config["datasets"][wildcards.dataset].reader]]
