"""Inputs, settings, resources and code of the rules that make data sets from other results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rebend.config.base import Resources, settings
from rebend.config.datasets import DatasetBlock, JoinedBlock, SampledBlock, SampledChatsBlock, SampledPairsBlock
from rebend.config.judges import LIMITS
from rebend.config.load import Config
from rebend.config.safety import ModelJudgeBlock
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.common import Paths, code_of, local_path


def names_of(
    config: Config, kind: type[DatasetBlock | JoinedBlock | SampledPairsBlock | SampledChatsBlock]
) -> list[str]:
    """Return the names of the data sets whose blocks are of a class."""
    return [name for name, block in config["datasets"].items() if isinstance(block, kind)]


def joined_parts(config: Config, wildcards: Any) -> list[str]:
    """Return the data sets that a joined data set consists of."""
    return [paths.data(name) for name in config["datasets"][wildcards.dataset].datasets]


def joined_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `join_datasets`."""
    return {"name": wildcards.dataset, "block": settings(config["datasets"][wildcards.dataset])}


def sampled_model(config: Config, wildcards: Any) -> str:
    """Return the model whose answers are sampled."""
    return paths.model(_sampled(config, wildcards).model)


def sampled_prompts(config: Config, wildcards: Any) -> list[str]:
    """Return the data sets of prompts."""
    return [paths.data(name) for name in _sampled(config, wildcards).prompts]


def sampled_judge(config: Config, wildcards: Any) -> Paths:
    """Return the folder of the judge, if it is a model."""
    name = _sampled(config, wildcards).judge
    return paths.judge_model(name) if isinstance(config["safety_judges"][name], ModelJudgeBlock) else []


def pairs_refusals(config: Config, wildcards: Any) -> Paths:
    """Return the file of refusals of pairs; [] without one, or if it is missing (said before the first job)."""
    file = config["datasets"][wildcards.dataset].safe.file
    path = file and local_path(config, file)
    return path if path and Path(path).is_file() else []


def sampled_without(config: Config, wildcards: Any) -> list[str]:
    """Return the data sets whose prompts are left out."""
    return [paths.data(name) for name in _sampled(config, wildcards).without]


def sampled_embeddings(config: Config, wildcards: Any) -> list[str]:
    """Return the embeddings of the prompts, if near prompts are left out."""
    block = _sampled(config, wildcards)
    return [paths.embeddings(block.near.encoder, name) for name in block.prompts] if block.near else []


def sampled_near(config: Config, wildcards: Any) -> list[str]:
    """Return the embeddings of the prompts that the prompts are compared with."""
    near = _sampled(config, wildcards).near
    return [paths.embeddings(near.encoder, name) for name in near.data] if near else []


def sampled_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `sample_pairs` and of `sample_chats`; `least` changes no row (`sampled_least`)."""
    block = settings(_sampled(config, wildcards), without=("least",))
    if block.get("safe") and block["safe"]["file"]:
        block["safe"]["file"] = local_path(config, block["safe"]["file"])
    judge = settings(config["safety_judges"][block["judge"]], without=LIMITS)
    dtype = config["models"][block["model"]].dtype
    return {"name": wildcards.dataset, "block": block, "safety_judge": judge, "dtype": dtype}


def sampled_least(config: Config, wildcards: Any) -> str:
    """Return the fewest rows to keep, for a resource of the job: a change samples nothing again.

    As text, because Snakemake would schedule jobs by a number.
    """
    return str(_sampled(config, wildcards).least)


def sampled_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of the judge's method."""
    return code_of("safety_judges", config["safety_judges"][_sampled(config, wildcards).judge])


def sampled_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of the model, with those of a judge that is a model: both are in memory."""
    block = _sampled(config, wildcards)
    model, judge = config["models"][block.model].resources, config["safety_judges"][block.judge]
    if not isinstance(judge, ModelJudgeBlock):
        return model
    given = [memory for memory in (model.mem_mb, judge.resources.mem_mb) if memory is not None]
    return Resources(
        gpu=max(model.gpu, judge.resources.gpu),
        mem_mb=sum(given) if len(given) == 2 else None,  # estimated unless both are given
        runtime=model.runtime + judge.resources.runtime,
    )


def _sampled(config: Config, wildcards: Any) -> SampledBlock:
    block = config["datasets"][wildcards.dataset]
    assert isinstance(block, SampledBlock)
    return block
