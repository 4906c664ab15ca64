"""Inputs, settings, resources and code of the rules in `recontrol.smk`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snakemake.io import ancient

from rebend.config.base import settings
from rebend.config.controls import TunedBlock
from rebend.config.load import Config
from rebend.config.rewards import endpoint_options
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.common import Paths, code_of, dtype, encoder_folder, local_path


def prompts_of_activations(config: Config, wildcards: Any) -> str:
    """Return the data set that an activations block samples responses to."""
    return paths.data(config["activations"][wildcards.activations].dataset)


def shard_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `extract_activations`."""
    block = settings(config["activations"][wildcards.activations])
    return {"activations": block, "shard": int(wildcards.shard), "dtype": dtype(config, wildcards)}


def activations_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `gather_activations`."""
    return settings(config["activations"][wildcards.activations])


def shards(config: Config, kind: str, wildcards: Any) -> list[str]:
    """Return the `states` or `responses` of all shards of an activations block."""
    name = wildcards.activations
    return paths.shards(wildcards.model, name, kind, config["activations"][name].shards)


def learning_inputs(config: Config, kind: str, wildcards: Any) -> dict[str, Paths]:
    """Return the inputs of a stage that learns from hidden states and rewards: a `value_model` or a `direction`.

    The model is an input only where the states are computed during training instead of stored.
    """
    block = config[f"{kind}s"][wildcards.get(kind)]
    model, name = wildcards.model, block.activations
    activations = config["activations"][name]
    return {
        "manifest": paths.manifest(model, name),
        "responses": paths.sampled(model, name),
        "states": paths.shards(model, name, "states", activations.shards),
        "model": paths.model(model) if activations.states == "streamed" else [],
        "rewards": paths.rewards(model, name, block.reward),
    }


def value_model_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `train_value_model`."""
    block = config["value_models"][wildcards.value_model]
    return {"value_model": settings(block), "dtype": dtype(config, wildcards)}


def value_model_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import path of a value model's method."""
    return code_of("value_models", config["value_models"][wildcards.value_model])


def released_value_model_file(config: Config, wildcards: Any) -> Paths:
    """Return the file of a released value network; `[]` if it is missing, which `checks.before_run` reports."""
    path = local_path(config, config["value_models"][wildcards.value_model].local)
    return path if Path(path).is_file() else []


def released_value_model_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `prepare_value_model`."""
    return {"value_model": settings(config["value_models"][wildcards.value_model])}


def direction_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `fit_direction`."""
    block = config["directions"][wildcards.direction]
    return {"direction": settings(block), "dtype": dtype(config, wildcards)}


def control_value_model(config: Config, wildcards: Any) -> Paths:
    """Return the value network that a control uses."""
    name = getattr(config["controls"][wildcards.control], "value_model", None)
    return paths.value_model(wildcards.model, name) if name else []


def control_direction(config: Config, wildcards: Any) -> Paths:
    """Return the direction that a control adds."""
    name = getattr(config["controls"][wildcards.control], "direction", None)
    return paths.direction(wildcards.model, name) if name else []


def control_reward_model(config: Config, wildcards: Any) -> Paths:
    """Return the folder of the guidance reward model, which a control uses while decoding."""
    name = guidance(config, wildcards.control)
    return paths.reward_model(name) if name else []


def control_strength(config: Config, wildcards: Any) -> Paths:
    """Return the file with the strength chosen for a control, if one is chosen."""
    block = config["controls"][wildcards.control]
    is_chosen = isinstance(block, TunedBlock) and block.is_chosen
    return paths.strength(wildcards.model, block.strength_of or wildcards.control) if is_chosen else []


def control_endpoint_options(config: Config, wildcards: Any) -> str:
    """Return timeout, concurrency and retries of the endpoints that a control uses, or the choice of its strength."""
    choice = getattr(config["controls"][wildcards.control], "choice", None)
    names = [name for name in (guidance(config, wildcards.control), choice and choice.reward) if name]
    return endpoint_options([config["rewards"][name] for name in names])


def control_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import paths of a control's method and of its guidance reward model."""
    name = guidance(config, wildcards.control)
    return code_of("controls", config["controls"][wildcards.control]) + ([config["rewards"][name].code] if name else [])


def decoding_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `decode`, without `choice`: only the chosen strength changes the responses."""
    return control_settings(config, wildcards, "choice", "reward_stop")


def choice_inputs(config: Config, wildcards: Any) -> dict[str, Paths]:
    """Return the inputs of `choose_strength` that depend on the block's `choice`."""
    choice = config["controls"][wildcards.control].choice
    return {
        "data": paths.data(choice.dataset),
        "reward": paths.reward_model(choice.reward),
        "encoder": encoder_folder(config, choice.encoder),
        "prompts": paths.embeddings(choice.encoder, choice.dataset),
        "overlap": ancient(paths.overlap(choice.dataset)),  # only its failure matters
    }


def choice_code(config: Config, wildcards: Any) -> list[str]:
    """Return the import paths of a control's method and of the reward models that choosing its strength uses."""
    choice = config["controls"][wildcards.control].choice
    return [*control_code(config, wildcards), config["rewards"][choice.reward].code]


def choice_settings(config: Config, wildcards: Any) -> dict[str, Any]:
    """Return the settings of `choose_strength`."""
    choice = config["controls"][wildcards.control].choice
    return {
        **control_settings(config, wildcards),
        "reward": settings(config["rewards"][choice.reward]),
        "encoder": settings(config["encoders"][choice.encoder]),
    }


def control_settings(config: Config, wildcards: Any, *without: str) -> dict[str, Any]:
    """Return the settings of decoding: the control without the keys `without`, its reward model, the model's dtype."""
    name, block = guidance(config, wildcards.control), config["controls"][wildcards.control]
    return {
        "control": settings(block, {*without, "dtype"}),
        "guidance_reward": settings(config["rewards"][name]) if name else None,
        "dtype": block.dtype or dtype(config, wildcards),
    }


def guidance(config: Config, control: str) -> str | None:
    """Return the reward block that a control uses while decoding."""
    return getattr(config["controls"][control], "reward", None)
