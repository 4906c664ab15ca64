"""The plan of a study: its cells, the adapters and other parts that they need, and its assets."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import product
from typing import Any

from rebend.config.adapters import TrainedAdapter
from rebend.config.base import Block, references
from rebend.config.load import Config
from rebend.config.safety import ScavBlock
from rebend.config.value_models import ValueModelBlock
from rebend.data.assets import Asset, block_assets
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.cells import CHATS, Cell, cells_of, label, method_of
from rebend.pipeline.graph.cells import published as published_names
from rebend.pipeline.graph.deviations import MARK, deviations


class Plan:
    """The results that a study needs: cells, trained parts, assets, and the settings of its tables and figures."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.study = config.study
        self.name = config.study_name

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell of every grid, each once, in the order of the study."""
        return cells_of(self.study, self.config.seeds)

    @cached_property
    def adapted(self) -> list[tuple[str, str]]:
        """(base, adapter) of every adapter in the study."""
        return list(dict.fromkeys((c.base, c.adapter) for c in self.cells if c.adapter != "none"))

    @cached_property
    def trained(self) -> list[tuple[str, str]]:
        """(base, adapter) of every adapter that is trained; released adapters and sums are not."""
        return [
            (base, adapter)
            for base, adapter in self.adapted
            if isinstance(self.config["adapters"][adapter], TrainedAdapter)
        ]

    @cached_property
    def value_models(self) -> list[tuple[str, str]]:
        """(model, value model) of every value network that the study trains."""
        used = ((c.model, getattr(self.config["controls"][c.control], "value_model", None)) for c in self.cells)
        networks = {name for name, block in self.config["value_models"].items() if isinstance(block, ValueModelBlock)}
        return list(dict.fromkeys((model, value) for model, value in used if value in networks))

    @cached_property
    def tuned_controls(self) -> list[tuple[str, str]]:
        """(model, control) of every strength that the study chooses."""
        controls = self.config["controls"]
        tuned = ((c.model, c.control) for c in self.cells if getattr(controls[c.control], "choice", None))
        return list(dict.fromkeys(tuned))

    @cached_property
    def rewards(self) -> list[str]:
        """Every reward model of the study that is trained here."""
        return [name for name in self.used["rewards"] if self.config["rewards"][name].is_trained]

    @cached_property
    def benchmarks(self) -> list[tuple[str, str, str]]:
        """(base, adapter, capability) of every run of a capability benchmark."""
        runs = (run for grid in self.study.grids for run in product(grid.models, grid.adapters, grid.capabilities))
        return list(dict.fromkeys(runs))

    @cached_property
    def chats(self) -> list[tuple[str, str, str]]:
        """(base, adapter, data set) of every perplexity on held-out chats; the base model is always among them."""
        runs = (
            (base, adapter, dataset)
            for grid in self.study.grids
            for base, adapter, dataset in product(grid.models, ["none", *grid.adapters], grid.held_out_chats)
        )
        return list(dict.fromkeys(runs))

    @cached_property
    def projections(self) -> list[tuple[str, str, str]]:
        """(base, adapter, data set) of every figure of projected hidden states; of several seeds only the first."""
        projections = [
            (base, adapter, grid.states)
            for grid in self.study.grids
            for base, adapter in product(grid.models, grid.adapters)
            if grid.states and adapter != "none"
        ]
        first = {label(self.config, "adapters", adapter): adapter for _, adapter, _ in reversed(projections)}
        seeded = self.config.seeds.get("adapters", {})
        return list(dict.fromkeys(p for p in projections if p[1] not in seeded or p[1] in first.values()))

    @cached_property
    def learnt(self) -> dict[str, str]:
        """Data set → a key by which a model, reward model, adapter or value model of the study learns from it.

        Nothing learns from the pairs that a reward model holds out.
        """
        uses: dict[str, str] = {}
        for section in ("models", "rewards", "adapters", "activations"):
            for name in self.used[section]:
                for key, named, _, dataset in references(self.config[section][name]):
                    if named == "datasets" and key != "trained.held_out":
                        uses.setdefault(dataset, f"{section}.{name}.{key}")
        return uses

    @cached_property
    def chosen_on(self) -> dict[str, str]:
        """Data set → a key by which the study chooses a strength on it."""
        choices = ((name, getattr(self.config["controls"][name], "choice", None)) for name in self.used["controls"])
        return {choice.dataset: f"controls.{name}.choice.dataset" for name, choice in choices if choice}

    @cached_property
    def reported(self) -> list[str]:
        """Every data set that the study's tables and figures report on."""
        states = (grid.states for grid in self.study.grids if grid.states)
        chats = (dataset for *_, dataset in self.chats)
        return list(dict.fromkeys([*(cell.dataset for cell in self.cells), *states, *chats]))

    def kept_apart(self, dataset: str) -> dict[str, str]:
        """Return data set → use, of the data sets that may share no prompt with `dataset`."""
        attacks = {cell.attack for cell in self.cells if cell.dataset == dataset and cell.attack}
        blocks = {name: self.config["attacks"][name] for name in sorted(attacks)}
        probed = {b.probe_prompts: f"attacks.{n}.probe_prompts" for n, b in blocks.items() if isinstance(b, ScavBlock)}
        return {**self.learnt, **(self.chosen_on if dataset in self.reported else {}), **probed}

    def inputs(self) -> list[str]:
        """Every result that the study's tables and figures read."""
        results = [path for cell in self.cells for path in (*cell.scores().values(), paths.data(cell.dataset))]
        results += [cell.responses for cell in self.cells]
        results += [cell.safety(judge) for cell in self.cells if cell.attack for judge in cell.grid.safety_judges]
        results += [paths.adapter(base, adapter) for base, adapter in self.trained]
        results += [paths.value_model(*pair) for pair in self.value_models]
        results += [paths.strength(*pair) for pair in self.tuned_controls]
        results += [paths.reward_model(name) for name in self.rewards]
        results += [paths.states(*triple) for triple in self.projections]
        results += [paths.capability(paths.model_name(base, adapter), name) for base, adapter, name in self.benchmarks]
        results += [paths.chat_perplexity(paths.model_name(base, adapter), name) for base, adapter, name in self.chats]
        results += [paths.data(name) for *_, name in self.chats]
        results += [paths.overlap(dataset) for dataset in (*self.reported, *self.chosen_on)]
        return list(dict.fromkeys(results))

    @cached_property
    def used(self) -> dict[str, list[str]]:
        """Section → names of the blocks that the study reaches, directly or through others."""
        used: dict[str, dict[str, None]] = {section: {} for section in self.config.catalogue}
        waiting: list[Block] = list(self.study.grids)
        while waiting:
            for _, section, _, name in references(waiting.pop()):
                if name not in used[section] and name in self.config[section]:
                    used[section][name] = None
                    waiting.append(self.config[section][name])
        return {section: list(names) for section, names in used.items()}

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

    def summary(self, published: str) -> dict[str, Any]:
        """Return the settings of the stages that make tables, figures and report."""
        named = {section: partial(self._named, section) for section in ("models", "adapters", "controls")}
        return {
            "study": self.name,
            "title": self.study.title,
            "paper": self.study.paper,
            "published": published,
            "claims": [claim.model_dump() for claim in self.study.claims],
            "transcripts": {
                "prompts": self.study.transcripts,
                "harmless": [paths.data(name) for name in self.study.harmless_prompts],
            },
            "cells": [self._marked(c.described(self.config), c.base, c.adapter, c.control) for c in self.cells],
            "deviations": self._deviations(),
            "rewards": [{"reward": name, "record": paths.record(paths.reward_model(name))} for name in self.rewards],
            "adapters": [
                {
                    "model": named["models"](m),
                    "adapter": named["adapters"](b),
                    "metrics": f"{paths.adapter(m, b)}/metrics.parquet",
                }
                for m, b in self.trained
            ],
            "value_models": [
                {"model": m, "value_model": v, "metrics": f"{paths.value_model(m, v)}/metrics.parquet"}
                for m, v in self.value_models
            ],
            "strengths": [
                {"model": m, "control": named["controls"](c), "path": paths.strength(m, c)}
                for m, c in self.tuned_controls
            ],
            "states": [
                {"model": named["models"](m), "adapter": named["adapters"](b), "path": paths.states(m, b, d)}
                for m, b, d in self.projections
            ],
            "capabilities": [self._capability(*triple) for triple in self.benchmarks],
            "chats": [self._chats(*triple) for triple in self.chats],
        }

    def _marked(self, described: dict[str, Any], base: str, adapter: str, control: str = "none") -> dict[str, Any]:
        """Return a cell whose adapter or control has a mark if printed numbers beside it are of other settings."""
        found = deviations(self.config, base, adapter, control) if self.study.paper else {}
        return {**described, **{part: f"{described[part]}{MARK}" for part in found}}

    def _deviations(self) -> list[str]:
        """Return a sentence per marked adapter or control: its settings and the paper's."""
        sentences: dict[str, None] = {}
        for cell in self.cells if self.study.paper else ():
            for part, keys in deviations(self.config, cell.base, cell.adapter, cell.control).items():
                name = label(self.config, f"{part}s", getattr(cell, part))
                settings = ", ".join(f"{key} {words}" for key, words in keys.items())
                model = label(self.config, "models", cell.base)
                sentences[f"{model}, {part} {name}{MARK}: settings differ from the paper's: {settings}."] = None
        return list(sentences)

    def _named(self, section: str, name: str) -> str:
        """Return a block's label, with the seed if it is one of several trainings."""
        seed = self.config.seeds.get(section, {}).get(name)
        return label(self.config, section, name) + ("" if seed is None else f", seed {seed}")

    def _capability(self, base: str, adapter: str, name: str) -> dict[str, Any]:
        """Return one capability benchmark as plain values for tables, with the keys of a cell without control."""
        names = {"models": ("model", base), "adapters": ("adapter", adapter), "capabilities": ("capability", name)}
        entry = {
            **{part: label(self.config, section, block) for section, (part, block) in names.items()},
            "seed": str(self.config.seeds.get("adapters", {}).get(adapter, "")),
            "method": "none",
            "adapter_method": method_of(self.config, "adapters", adapter),
            "published": published_names(self.config, names),
            "task": self.config["capabilities"][name].task,
            "path": paths.capability(paths.model_name(base, adapter), name),
        }
        return self._marked(entry, base, adapter)

    def _chats(self, base: str, adapter: str, dataset: str) -> dict[str, Any]:
        """Return one model on held-out chats as plain values for tables, with the keys of a cell without control."""
        named = {"model": ("models", base), "adapter": ("adapters", adapter), "dataset": ("datasets", dataset)}
        path = paths.chat_perplexity(paths.model_name(base, adapter), dataset)
        entry = {
            **{part: label(self.config, section, block) for part, (section, block) in named.items()},
            "control": "none",
            "method": "none",
            "attack": "",
            "role": CHATS,
            "seed": str(self.config.seeds.get("adapters", {}).get(adapter, "")),
            "data": paths.data(dataset),
            "scores": {"chat_perplexity": path},
        }
        return self._marked(entry, base, adapter)
