"""The cells of a study: one model under one control (and one attack) on one data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from rebend.config.study import Grid, Study
from rebend.pipeline.graph import paths

TOLD_BY_NAME = ("released", "safety_prompt")  # what a block's method does not say: which method, what kind of prompt


@dataclass(frozen=True)
class Cell:
    """One model under one control on one data set, with the scores that its grid asks for."""

    base: str
    adapter: str
    control: str
    dataset: str
    role: str  # "prompts" or "evaluation"
    attack: str  # "" for prompts
    grid: Grid

    @property
    def model(self) -> str:
        """Name of the (adapted) model."""
        return paths.model_name(self.base, self.adapter)

    def scores(self) -> dict[str, str]:
        """Return metric → path of the scores or verdicts of this cell."""
        where = (self.model, self.dataset, self.control)
        if self.role == "evaluation":
            return {"safety": self.safety(self.grid.safety_judges[0])}
        found = {"diversity": paths.diversity_scores(*where)}
        if self.grid.reward:
            found["reward"] = paths.reward_scores(self.grid.reward, *where)
        if self.grid.heldout_reward:
            found["heldout_reward"] = paths.reward_scores(self.grid.heldout_reward, *where)
        if self.grid.encoder:
            found["coherence"] = paths.coherence_scores(self.grid.encoder, *where)
        if self.grid.judge:
            found["win_rate"] = paths.verdicts(self.grid.judge, *where)
        return found

    @property
    def responses(self) -> str:
        """Path of its responses, or of its completions."""
        if self.role == "evaluation":
            return paths.completions(self.model, self.dataset, self.attack, self.control)
        return paths.responses(self.model, self.dataset, self.control)

    def safety(self, judge: str) -> str:
        """Path of the verdicts of one safety judge."""
        return paths.safety(judge, self.model, self.dataset, self.attack, self.control)

    def described(self, adapter: str, control: str, attack: str, method: str) -> dict[str, Any]:
        """Return the cell as plain values, with the labels of its adapter, control and attack, for tables and figures."""
        responses = self.responses
        judges = self.grid.safety_judges if self.role == "evaluation" else []
        return {
            "model": self.base,
            "adapter": adapter,
            "control": control,
            "method": method,
            "dataset": self.dataset,
            "role": self.role,
            "attack": attack,
            "data": paths.data(self.dataset),
            "responses": responses,
            "record": paths.record(responses),
            **dict.fromkeys(("reward", "heldout_reward", "diversity", "coherence", "win_rate", "safety")),
            **self.scores(),
            "judges": {judge: self.safety(judge) for judge in judges},
        }


def cells_of(study: Study) -> list[Cell]:
    """Return every cell of every grid, each once, in the order of the study."""
    return list({(c.model, c.control, c.dataset, c.role, c.attack): c for c in _cells(study)}.values())


def _cells(study: Study) -> Iterator[Cell]:
    for grid in study.grids:
        for base, adapter, control in product(grid.models, grid.adapters, grid.controls):
            for dataset in grid.prompts:
                yield Cell(base, adapter, control, dataset, "prompts", "", grid)
            for dataset, attack in product(grid.evaluation, grid.attacks):
                yield Cell(base, adapter, control, dataset, "evaluation", attack, grid)


def labels(cells: Iterable[Cell], key: str, blocks: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return (base, block) → what tables call it: its method, or its own name where the method comes more than once.

    `key` is adapter, control or attack. A name with one of the words `TOLD_BY_NAME` is kept, too.
    """
    names: dict[str, dict[str, str]] = {}
    for cell in cells:
        name = getattr(cell, key)
        block = blocks.get(name)
        names.setdefault(cell.base, {})[name] = block.method if block else ("none" if name == "none" else "")
    times = {base: Counter(methods.values()) for base, methods in names.items()}
    return {
        (base, name): method if times[base][method] == 1 and not any(word in name for word in TOLD_BY_NAME) else name
        for base, methods in names.items()
        for name, method in methods.items()
    }
