"""The cells of a study: one model under one control (and one attack) on one data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

from rebend.config.study import Grid, Study
from rebend.pipeline.graph import paths

QUALITY, SAFETY, CHATS = "quality", "safety", "chats"  # roles of a cell; `Plan.chats` has those of chats
# Part of a cell → its section of the catalogue
PARTS = {"model": "models", "adapter": "adapters", "control": "controls", "dataset": "datasets", "attack": "attacks"}


class Catalogue(Protocol):
    """The blocks of each section by name, as `rebend.config.load.Config` has them."""

    def __getitem__(self, section: str, /) -> Any:
        """Return the blocks of a section by name."""


@dataclass(frozen=True)
class Cell:
    """One model under one control on one data set, with the scores that its grid lists."""

    base: str
    adapter: str
    control: str
    dataset: str
    role: str  # QUALITY or SAFETY
    attack: str  # "" in cells of quality
    grid: Grid
    seed: int | None = None  # training seed of adapter and control; None without a sweep over seeds

    @property
    def model(self) -> str:
        """Name of the (adapted) model."""
        return paths.model_name(self.base, self.adapter)

    def scores(self) -> dict[str, str]:
        """Return score stage → path of its scores or verdicts of this cell."""
        names = (self.model, self.dataset, self.control)
        answers = paths.answers_of(self.responses)
        text = {
            "perplexity": paths.perplexity_scores(answers) if self.grid.perplexity else None,
            "repetition": paths.repetition_scores(answers) if self.grid.repetition else None,
        }
        if self.role == SAFETY:
            attacked = {f"attacked_{stage}": path for stage, path in text.items() if path}
            return {"safety": self.safety(self.grid.safety_judges[0]), **attacked}
        stages = {
            "reward": self.grid.reward and paths.reward_scores(self.grid.reward, *names),
            "heldout_reward": self.grid.heldout_reward and paths.reward_scores(self.grid.heldout_reward, *names),
            "diversity": paths.diversity_scores(*names),
            "coherence": self.grid.encoder and paths.coherence_scores(self.grid.encoder, *names),
            **text,
            "win_rate": self.grid.judge and paths.verdicts(self.grid.judge, *names),
        }
        return {stage: path for stage, path in stages.items() if path}

    @property
    def responses(self) -> str:
        """Path of the cell's responses, or of its completions."""
        if self.role == SAFETY:
            return paths.completions(self.model, self.dataset, self.attack, self.control)
        return paths.responses(self.model, self.dataset, self.control)

    def safety(self, judge: str) -> str:
        """Return the path of the verdicts of one safety judge."""
        return paths.safety(judge, self.model, self.dataset, self.attack, self.control)

    def described(self, catalogue: Catalogue) -> dict[str, Any]:
        """Return the cell as plain values for tables and figures: labels, methods, printed names and files."""
        names = {part: self.base if part == "model" else getattr(self, part) for part in PARTS}
        responses = self.responses
        judges = self.grid.safety_judges if self.role == SAFETY else []
        return {
            **{part: label(catalogue, PARTS[part], name) for part, name in names.items()},
            "attack": with_tries(label(catalogue, "attacks", self.attack), catalogue["attacks"].get(self.attack)),
            "role": self.role,
            "seed": "" if self.seed is None else str(self.seed),
            "method": method_of(catalogue, "controls", self.control),
            "adapter_method": method_of(catalogue, "adapters", self.adapter),
            "attack_method": method_of(catalogue, "attacks", self.attack),
            "published": published(catalogue, {PARTS[part]: (part, name) for part, name in names.items()}),
            "data": paths.data(self.dataset),
            "responses": responses,
            "record": paths.record(responses),
            "scores": self.scores(),
            "judges": {judge: self.safety(judge) for judge in judges},
        }


Seeds = Mapping[str, Mapping[str, int]]  # section → block of one seed → the seed, as `rebend.config.load.Config.seeds`


def cells_of(study: Study, seeds: Seeds) -> list[Cell]:
    """Return every cell of every grid, each once, in the order of the study.

    An adapter and a control that are both trained over seeds meet only with the same seed.
    """
    return list({(c.model, c.control, c.dataset, c.role, c.attack): c for c in _cells(study, seeds)}.values())


def _cells(study: Study, seeds: Seeds) -> Iterator[Cell]:
    for grid in study.grids:
        for base, adapter, control in product(grid.models, grid.adapters, grid.controls):
            named = {"models": base, "adapters": adapter, "controls": control}
            known = {seeds[part][name] for part, name in named.items() if name in seeds.get(part, {})}
            if len(known) > 1:
                continue
            seed = next(iter(known), None)
            for dataset in grid.prompts:
                yield Cell(base, adapter, control, dataset, QUALITY, "", grid, seed)
            for dataset, attack in product(grid.evaluation, grid.attacks):
                yield Cell(base, adapter, control, dataset, SAFETY, attack, grid, seed)


def label(catalogue: Catalogue, section: str, name: str) -> str:
    """Return a block's label in tables: its `label`, else its name. A name without a block (`none`, "") is returned."""
    block = catalogue[section].get(name)
    return name if block is None or block.label is None else str(block.label)


def with_tries(name: str, attack: Any) -> str:
    """Return the label of an attack, with its number of tries per prompt if it has several."""
    attempts = getattr(attack, "attempts", 1) * getattr(attack, "generations", 1)
    return name if attempts == 1 else f"{name} (best of {attempts} tries)"


def method_of(catalogue: Catalogue, section: str, name: str) -> str:
    """Return a block's method; a name without a block (`none`, "") is returned."""
    block = catalogue[section].get(name)
    return name if block is None else str(block.method)


def published(catalogue: Catalogue, blocks: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Return part → printed names of its block, for parts given as section → (part, name of the block)."""
    parts = ((part, catalogue[section].get(name)) for section, (part, name) in blocks.items())
    return {part: list(block.printed_names) for part, block in parts if block is not None}
