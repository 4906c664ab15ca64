"""From a checked configuration to what the rules ask for: cells, needs, settings of a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from rebend.config.adapters import TrainedAdapter
from rebend.config.base import Block, Resources, references, settings
from rebend.config.datasets import DataSource
from rebend.config.judges import AskedBlock, RewardModelJudgeBlock
from rebend.config.load import Config
from rebend.config.safety import ModelJudgeBlock
from rebend.config.value_models import ValueModelBlock
from rebend.data.assets import Asset, block_assets
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.cells import Cell, cells_of, label, method_of
from rebend.pipeline.graph.cells import published as published_names
from rebend.pipeline.graph.control_inputs import ControlInputs


class Plan(ControlInputs):
    """What a study needs, in the words of the rules."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.study = config.study
        self.name = config.study_name

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell of every grid, each once, in the order of the study."""
        return cells_of(self.study)

    @cached_property
    def adapted(self) -> list[tuple[str, str]]:
        """(base, adapter) of every adapter that the study looks at."""
        return list(dict.fromkeys((c.base, c.adapter) for c in self.cells if c.adapter != "none"))

    @cached_property
    def trained(self) -> list[tuple[str, str]]:
        """(base, adapter) of every adapter that is trained here, not taken over from others or added up."""
        return [
            (base, adapter)
            for base, adapter in self.adapted
            if isinstance(self.config["adapters"][adapter], TrainedAdapter)
        ]

    @cached_property
    def valued(self) -> list[tuple[str, str]]:
        """(model, value) of every value network that the study trains."""
        found = ((c.model, getattr(self.config["controls"][c.control], "value_model", None)) for c in self.cells)
        networks = {name for name, block in self.config["value_models"].items() if isinstance(block, ValueModelBlock)}
        return list(dict.fromkeys((model, value) for model, value in found if value in networks))

    @cached_property
    def tuned(self) -> list[tuple[str, str]]:
        """(model, control) of every strength that the study chooses."""
        found = ((c.model, c.control) for c in self.cells if self.chooses(c.control))
        return list(dict.fromkeys(found))

    @cached_property
    def asked(self) -> list[tuple[str, str, str]]:
        """(base, adapter, capability) of every benchmark that the study asks."""
        found = (
            triple for grid in self.study.grids for triple in product(grid.models, grid.adapters, grid.capabilities)
        )
        return list(dict.fromkeys(found))

    @cached_property
    def drawn_states(self) -> list[tuple[str, str, str]]:
        """(base, adapter, data set) of every picture of hidden states."""
        asked = ((grid.states, product(grid.models, grid.adapters)) for grid in self.study.grids if grid.states)
        found = ((base, adapter, states) for states, pairs in asked for base, adapter in pairs if adapter != "none")
        return list(dict.fromkeys(found))

    def inputs(self) -> list[str]:
        """Every result that the study's tables and figures read."""
        found = [path for cell in self.cells for path in (*cell.scores().values(), paths.data(cell.dataset))]
        found += [cell.responses for cell in self.cells]
        found += [cell.safety(judge) for cell in self.cells if cell.attack for judge in cell.grid.safety_judges]
        found += [paths.adapter(base, adapter) for base, adapter in self.trained]
        found += [paths.value_model(*pair) for pair in self.valued]
        found += [paths.strength(*pair) for pair in self.tuned]
        found += [paths.states(*triple) for triple in self.drawn_states]
        found += [paths.capability(paths.model_name(base, adapter), name) for base, adapter, name in self.asked]
        return list(dict.fromkeys(found))

    @cached_property
    def used(self) -> dict[str, list[str]]:
        """Section → names of the blocks that the study reaches, directly or through others."""
        found: dict[str, dict[str, None]] = {section: {} for section in self.config.catalogue}
        waiting: list[Block] = list(self.study.grids)
        while waiting:
            for _, section, _, name in references(waiting.pop()):
                if name not in found[section] and name in self.config[section]:
                    found[section][name] = None
                    waiting.append(self.config[section][name])
        return {section: list(names) for section, names in found.items()}

    @cached_property
    def assets(self) -> dict[str, Asset]:
        """Every asset that the study reaches, by name."""
        blocks = [self.config[section][name] for section, names in self.used.items() for name in names]
        return {asset.name: asset for block in blocks for asset in block_assets(block)}

    @cached_property
    def all_assets(self) -> dict[str, Asset]:
        """Every asset of the catalogue, by name."""
        blocks = [block for section in self.config.catalogue.values() for block in section.values()]
        return {asset.name: asset for block in blocks for asset in block_assets(block)}

    def manifests(self, block: Block) -> list[str]:
        """The manifests of the assets that a block names."""
        return [paths.asset(asset.name) for asset in block_assets(block)]

    def summary(self, published: str) -> dict[str, Any]:
        """Return the settings of the stages that make tables, figures and report."""
        named = {section: partial(label, self.config, section) for section in ("models", "adapters", "controls")}
        return {
            "study": self.name,
            "title": self.study.title,
            "paper": self.study.paper,
            "published": published,
            "claims": [claim.model_dump() for claim in self.study.claims],
            "cells": [cell.described(self.config) for cell in self.cells],
            "adapters": [
                {
                    "model": named["models"](m),
                    "adapter": named["adapters"](b),
                    "metrics": f"{paths.adapter(m, b)}/metrics.parquet",
                }
                for m, b in self.trained
            ],
            "values": [
                {"model": m, "value": v, "metrics": f"{paths.value_model(m, v)}/metrics.parquet"}
                for m, v in self.valued
            ],
            "strengths": [
                {"model": m, "control": named["controls"](c), "path": paths.strength(m, c)} for m, c in self.tuned
            ],
            "states": [
                {"model": named["models"](m), "adapter": named["adapters"](b), "path": paths.states(m, b, d)}
                for m, b, d in self.drawn_states
            ],
            "capabilities": [self._capability(*triple) for triple in self.asked],
        }

    def _capability(self, base: str, adapter: str, name: str) -> dict[str, Any]:
        """Return one capability benchmark as plain values for tables, with the keys of a cell without control."""
        names = {"models": ("model", base), "adapters": ("adapter", adapter), "capabilities": ("capability", name)}
        return {
            **{part: label(self.config, section, block) for section, (part, block) in names.items()},
            "method": "none",
            "adapter_method": method_of(self.config, "adapters", adapter),
            "published": published_names(self.config, names),
            "task": self.config["capabilities"][name].task,
            "path": paths.capability(paths.model_name(base, adapter), name),
        }

    def local(self, path: str) -> str:
        """Resolve a path of the catalogue: relative ones are looked up in the `data` folder."""
        return str(Path(path) if Path(path).is_absolute() else self.config.data / path)

    def dataset_settings(self, name: str) -> dict[str, Any]:
        """Settings of `prepare_dataset`, with local paths resolved."""
        block = settings(self.config["datasets"][name])
        for key in ("source", "reference"):
            if block[key] and block[key]["local"]:
                block[key]["local"] = self.local(block[key]["local"])
        return {"name": name, "block": block}

    def checkpoint_files(self, block: Any) -> list[str]:
        """The files of a local model folder: a change of one makes the model again."""
        if not block.local:
            return []
        folder = Path(self.local(block.local))
        return sorted(str(file) for file in folder.iterdir() if file.is_file()) if folder.is_dir() else [str(folder)]

    def checkpoint_settings(self, place: str, block: Any) -> dict[str, Any]:
        """Settings of `prepare_model`: where the checkpoint comes from, and what it must have."""
        template = getattr(block, "chat_template", None)  # a file of the workflow, not of the data
        return {
            "chat": place.startswith("models/"),
            "hub": block.hub and block.hub.model_dump(),
            "local": block.local and self.local(block.local),
            "chat_template": template and Path(template).read_text(encoding="utf-8"),
            "n_layers": getattr(block, "n_layers", None),
        }

    def adapter_settings(self, adapter: str) -> dict[str, Any]:
        """Settings of `prepare_adapter`: where the adapter comes from."""
        block = self.config["adapters"][adapter]
        return {**settings(block), "local": block.local and self.local(block.local)}

    def dataset_file(self, name: str, key: str) -> str | list[str]:
        """The local file behind `source` or `reference` of a data set; `[]` if it comes from elsewhere.

        A file that is not there is no input either, so that a dry run resolves; `rebend.pipeline.checks.before_run` names it
        before any job starts.
        """
        source = getattr(self.config["datasets"][name], key)
        return self._local_file(source) or []

    def value_model_file(self, name: str) -> str | list[str]:
        """The file of a released value network; `[]` if it is not there, which `rebend.pipeline.checks.before_run` says."""
        path = self.local(self.config["value_models"][name].local)
        return path if Path(path).is_file() else []

    def capability_files(self, name: str) -> list[str]:
        """The local files behind a capability block that are there; those from elsewhere are no inputs."""
        block = self.config["capabilities"][name]
        return [path for source in (*block.sources, block.examples) if (path := self._local_file(source))]

    def capability_settings(self, model: str, name: str) -> dict[str, Any]:
        """Settings of `score_capability`, with local paths resolved."""
        block = settings(self.config["capabilities"][name])
        sources = block["source"] if isinstance(block["source"], list) else [block["source"]]
        for source in (*sources, block["examples"]):
            if source and source["local"]:
                source["local"] = self.local(source["local"])
        return {"block": block, "dtype": self.dtype(model)}

    def _local_file(self, source: DataSource | None) -> str | None:
        """The path of a local source whose file is there."""
        path = self.local(source.local) if source and source.local else None
        return path if path and Path(path).is_file() else None

    def state_settings(self, base: str, adapter: str) -> dict[str, Any]:
        """Settings of `project_hidden_states`: which layer is shown, and how long an answer may be."""
        block = self.config["adapters"][adapter]
        longest = getattr(block, "max_length", 512)
        return {"hidden_index": block.middle_target(), "max_length": longest, "dtype": self.dtype(base)}

    def encoder_input(self, name: str) -> str | list[str]:
        """The folder of an encoder; one that a package carries is no file of ours."""
        return [] if self.config["encoders"][name].package else paths.encoder(name)

    def shards(self, model: str, activations: str, what: str) -> list[str]:
        """The `states` or `responses` of all shards of an activations block."""
        return paths.shards(model, activations, what, self.config["activations"][activations].shards)

    def streaming_model(self, model: str, activations: str) -> str | list[str]:
        """The model that computes states while something learns from them, where none are stored."""
        return paths.model(model) if self.config["activations"][activations].states == "streamed" else []

    def judge_input(self, name: str) -> str | list[str]:
        """The folder of a safety judge that is a model."""
        return paths.judge_model(name) if isinstance(self.config["safety_judges"][name], ModelJudgeBlock) else []

    def judge_resources(self, name: str) -> Resources:
        """What a job of a safety judge asks of the machine."""
        block = self.config["safety_judges"][name]
        return block.resources if isinstance(block, ModelJudgeBlock) else Resources()

    def judging_group(self, name: str) -> str | None:
        """The group of a safety judge's jobs; those that use a model, or ask at an address, go alone."""
        return None if isinstance(self.config["safety_judges"][name], ModelJudgeBlock | AskedBlock) else "safety"

    def judged_rewards(self, wildcards: Any) -> str | list[str]:
        """Rewards of the responses, for a judge that compares rewards."""
        block = self.config["judges"][wildcards.judge]
        if not isinstance(block, RewardModelJudgeBlock):
            return []
        return paths.reward_scores(block.reward, wildcards.model, wildcards.dataset, wildcards.control)

    def reference_rewards(self, wildcards: Any) -> str | list[str]:
        """Rewards of the preferred answers, for a judge that compares rewards."""
        block = self.config["judges"][wildcards.judge]
        return (
            paths.reference_scores(block.reward, wildcards.dataset) if isinstance(block, RewardModelJudgeBlock) else []
        )

    def training_resources(self, base: str, adapter: str) -> Resources:
        """What training an adapter asks of the machine: a GPU per rank, where the model needs any."""
        needed = self.resources(base)
        return needed.model_copy(update={"gpu": needed.gpu and self.config["adapters"][adapter].ranks})

    def zero_config(self, adapter: str, folder: Path) -> str:
        """DeepSpeed's configuration that an adapter is trained with; "" for none."""
        stage = self.config["adapters"][adapter].zero
        return str(folder / f"zero{stage}.json") if stage else ""

    def resources(self, model: str) -> Resources:
        """What a job with a (adapted) model asks of the machine."""
        return self.config["models"][paths.base_and_adapter(model)[0]].resources


def resources(resources_of: Callable[[Any], Resources]) -> dict[str, Callable[..., int]]:
    """Resources of a rule from what its model needs, as functions of its wildcards; a second try has twice as much."""
    return {
        "gpu": lambda wildcards: resources_of(wildcards).gpu,
        "mem_mb": lambda wildcards, attempt: resources_of(wildcards).mem_mb * attempt,
        "runtime": lambda wildcards, attempt: resources_of(wildcards).runtime * attempt,
    }


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint that matches exactly these names (nothing at all if there are none)."""
    return "|".join(sorted(name.replace("+", r"\+") for name in names)) or "(?!)"
