"""Inputs, settings, resources and code of the rules in `evaluation.smk`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rebend.config.base import Resources, settings
from rebend.config.datasets import DataSource
from rebend.config.judges import LIMITS, ChatEndpointBlock, RewardModelJudgeBlock, limits_of
from rebend.config.load import Config
from rebend.config.safety import ModelJudgeBlock, ScavBlock
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.common import Paths, code_of, dtype, encoder_folder, local_file, local_path, manifests
from rebend.pipeline.stages.recontrol import control_code, decoding_settings


def encoder_input(config: Config, wildcards: Any) -> Paths:
    """Return the folder of an encoder; an encoder inside a Python package has none."""
    return encoder_folder(config, wildcards.encoder)


def encoder_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of a job with an encoder."""
    return config["encoders"][wildcards.encoder].resources


def encoder_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of a stage that uses an encoder."""
    return {"encoder": settings(config["encoders"][wildcards.encoder])}


def answered_data(config: Config, wildcards: Any) -> str:
    """Return the data set of responses or completions that the wildcard `answers` names."""
    return paths.data(wildcards.answers.split("/")[2])


def base_of_answers(config: Config, wildcards: Any) -> str:
    """Return the name of the base model of the model that wrote the answers."""
    return paths.base_and_adapter(wildcards.answers.split("/")[1])[0]


def perplexity_model(config: Config, wildcards: Any) -> str:
    """Return the folder of the base model of the model that wrote the answers."""
    return paths.model(base_of_answers(config, wildcards))


def perplexity_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `score_perplexity`."""
    return {"dtype": config["models"][base_of_answers(config, wildcards)].dtype}


def perplexity_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of `score_perplexity`: those of a job with the base model."""
    return config["models"][base_of_answers(config, wildcards)].resources


def chats_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `score_chats`."""
    return {"dtype": dtype(config, wildcards)}


def judged_rewards(config: Config, wildcards: Any) -> Paths:
    """Return the rewards of the responses, for a judge that compares rewards."""
    block = config["judges"][wildcards.judge]
    if not isinstance(block, RewardModelJudgeBlock):
        return []
    return paths.reward_scores(block.reward, wildcards.model, wildcards.dataset, wildcards.control)


def reference_rewards(config: Config, wildcards: Any) -> Paths:
    """Return the rewards of the preferred answers, for a judge that compares rewards."""
    block = config["judges"][wildcards.judge]
    return paths.reference_scores(block.reward, wildcards.dataset) if isinstance(block, RewardModelJudgeBlock) else []


def judge_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `judge_win_rate`."""
    return {"judge": settings(config["judges"][wildcards.judge], without=LIMITS)}


def judge_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of a judge's method."""
    return code_of("judges", config["judges"][wildcards.judge])


def request_resources(config: Config, section: str) -> dict[str, Callable[[Any], int | str]]:
    """Return concurrency, retries and limits of a judge's requests as resources, because they change no result."""
    block = partial(_judge_block, config, section)
    return {
        "concurrency": lambda wildcards: getattr(block(wildcards), "concurrency", 1),
        "retries": lambda wildcards: getattr(block(wildcards), "retries", 0),
        "limits": lambda wildcards: limits_of(block(wildcards)),
    }


def _judge_block(config: Config, section: str, wildcards: Any) -> Any:
    return config[section][wildcards.judge if section == "judges" else wildcards.safety_judge]


def attack_examples(config: Config, wildcards: Any) -> Paths:
    """Return the data set that an attack learns from, if it has one."""
    block = config["attacks"][wildcards.attack]
    return paths.data(block.probe_prompts) if isinstance(block, ScavBlock) else []


def attack_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `attack`."""
    return {"attack": settings(config["attacks"][wildcards.attack]), **decoding_settings(config, wildcards)}


def attack_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import paths of the methods of an attack and its control."""
    return code_of("attacks", config["attacks"][wildcards.attack]) + control_code(config, wildcards)


def safety_judge_input(config: Config, wildcards: Any) -> Paths:
    """Return the folder of a safety judge that is a model."""
    block = config["safety_judges"][wildcards.safety_judge]
    return paths.judge_model(wildcards.safety_judge) if isinstance(block, ModelJudgeBlock) else []


def safety_judge_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `judge_safety`."""
    return {"safety_judge": settings(config["safety_judges"][wildcards.safety_judge], without=LIMITS)}


def safety_judge_resources(config: Config, wildcards: Any) -> Resources:
    """Return the resources of a job of a safety judge."""
    block = config["safety_judges"][wildcards.safety_judge]
    return block.resources if isinstance(block, ModelJudgeBlock) else Resources()


def safety_judge_group(config: Config, wildcards: Any) -> str | None:
    """Return the group of a safety judge's jobs; jobs that use a model or an endpoint are not grouped."""
    block = config["safety_judges"][wildcards.safety_judge]
    return None if isinstance(block, ModelJudgeBlock | ChatEndpointBlock) else "safety"


def safety_judge_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of a safety judge's method."""
    return code_of("safety_judges", config["safety_judges"][wildcards.safety_judge])


def capability_files(config: Config, wildcards: Any) -> list[str]:
    """Return the local files of a capability block that exist."""
    sources = _capability_sources(config["capabilities"][wildcards.capability])
    return [path for source in sources if (path := local_file(config, source))]


def capability_assets(config: Config, wildcards: Any) -> list[str]:
    """Return the manifests of a capability block's assets."""
    return manifests(config["capabilities"][wildcards.capability])


def capability_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `score_capability`, with resolved local paths."""
    block = settings(config["capabilities"][wildcards.capability])
    sources = block["source"] if isinstance(block["source"], list) else [block["source"]]
    for source in (*sources, block["examples"]):
        if source and source["local"]:
            source["local"] = local_path(config, source["local"])
    return {"block": block, "dtype": dtype(config, wildcards)}


def _capability_sources(block: Any) -> Iterator[DataSource]:
    yield from block.sources
    if block.examples:
        yield block.examples
