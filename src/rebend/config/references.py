"""Names that point to other blocks: each must exist, be of the right kind, and make sense together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rebend.config.study import Grid, Study
from rebend.errors import likely_typo

Catalogue = Mapping[str, Mapping[str, Any]]


def check_references(catalogue: Catalogue, study_name: str, study: Study) -> list[str]:
    """Return one sentence per name that points nowhere or to something that does not fit."""
    mistakes = [mistake for section in catalogue for mistake in _section(catalogue, section)]
    for number, grid in enumerate(study.grids):
        mistakes += _grid(catalogue, grid, f"studies.{study_name}.grids.{number}")
    return mistakes


def _section(catalogue: Catalogue, section: str) -> Iterator[str]:
    for name, block in catalogue[section].items():
        where = f"{section}.{name}"
        if section == "models" and block.tiny:
            for dataset in block.tiny.datasets:
                yield from _dataset(catalogue, f"{where}.tiny.datasets", dataset, "chat")
        elif section == "rewards" and block.tiny:
            yield from _named(catalogue, f"{where}.tiny.model", "models", block.tiny.model)
            yield from _dataset(catalogue, f"{where}.tiny.dataset", block.tiny.dataset, "preference")
        elif section == "bends":
            yield from _dataset(catalogue, f"{where}.samples", block.samples, "safety")
            yield from _dataset(catalogue, f"{where}.pairs", block.pairs, "safety")
            yield from _dataset(catalogue, f"{where}.retain", block.retain, "chat")
        elif section == "activations":
            yield from _dataset(catalogue, f"{where}.dataset", block.dataset, "prompts")
        elif section == "values":
            yield from _named(catalogue, f"{where}.activations", "activations", block.activations)
            yield from _named(catalogue, f"{where}.reward", "rewards", block.reward)
        elif section == "controls":
            yield from _control(catalogue, where, block)
        elif section == "judges" and block.reward is not None:
            yield from _named(catalogue, f"{where}.reward", "rewards", block.reward)


def _control(catalogue: Catalogue, where: str, control: Any) -> Iterator[str]:
    if control.value is not None:
        yield from _named(catalogue, f"{where}.value", "values", control.value)
    if control.choice is not None:
        yield from _dataset(catalogue, f"{where}.choice.dataset", control.choice.dataset, "prompts")
        yield from _named(catalogue, f"{where}.choice.reward", "rewards", control.choice.reward)
        yield from _named(catalogue, f"{where}.choice.encoder", "encoders", control.choice.encoder)


def _grid(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    for key, section in (("models", "models"), ("bends", "bends"), ("controls", "controls")):
        for name in getattr(grid, key):
            if name != "none" or section != "bends":
                yield from _named(catalogue, f"{where}.{key}", section, name)
    for key, kind in (("prompts", "prompts"), ("evaluation", "evaluation")):
        for name in getattr(grid, key):
            yield from _dataset(catalogue, f"{where}.{key}", name, kind)
    for key, section in (("reward", "rewards"), ("encoder", "encoders"), ("judge", "judges")):
        if getattr(grid, key) is not None:
            yield from _named(catalogue, f"{where}.{key}", section, getattr(grid, key))
    if grid.safety_judge is not None:
        yield from _named(catalogue, f"{where}.safety_judge", "safety_judges", grid.safety_judge)
    if grid.states is not None:
        yield from _dataset(catalogue, f"{where}.states", grid.states, "safety")
    yield from _layers(catalogue, grid, where)
    yield from _honest(catalogue, grid, where)
    yield from _world_only(catalogue, grid, where)


def _layers(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Target layers must lie inside every model that is bent, where its depth is known already."""
    for model_name in grid.models:
        model = catalogue["models"].get(model_name)
        depth = model and (model.tiny.n_layers if model.tiny else model.n_layers)
        if not depth:
            continue
        for bend_name in grid.bends:
            bend = catalogue["bends"].get(bend_name)
            if bend is None:
                continue
            last = bend.target_layer_start_idx + bend.layers_window_size - 1
            if last > depth:
                yield (
                    f"bends.{bend_name}: target_layer_start_idx {bend.target_layer_start_idx} and layers_window_size "
                    f"{bend.layers_window_size} reach hidden_states[{last}]; model '{model_name}' (in {where}) has "
                    f"{depth} blocks, so at most hidden_states[{depth}]"
                )
            for block in bend.transform_layers:
                if block >= depth or block < -1:
                    yield f"bends.{bend_name}.transform_layers: {block} is beyond the {depth} blocks of '{model_name}'"


def _honest(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """What is reported must not be what was trained or tuned on."""
    for name in grid.controls:
        control = catalogue["controls"].get(name)
        if control is None or control.value is None or control.value not in catalogue["values"]:
            continue
        activations = catalogue["activations"].get(catalogue["values"][control.value].activations)
        if activations is not None and activations.dataset in grid.prompts:
            yield f"{where}.prompts: '{activations.dataset}' trains the value of '{name}'; report on other prompts"
        if control.choice is not None and control.choice.dataset in grid.prompts:
            yield f"{where}.prompts: '{control.choice.dataset}' tunes '{name}'; report on other prompts"


def _world_only(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Judges that know the tiny world's truth can judge nothing else."""
    pairs = ((grid.judge, "judges", grid.prompts), (grid.safety_judge, "safety_judges", grid.evaluation))
    for name, section, datasets in pairs:
        judge = catalogue[section].get(name) if name else None
        if judge is None or not judge.method.startswith("world_"):
            continue
        for dataset in datasets:
            block = catalogue["datasets"].get(dataset)
            if block is not None and block.source.world is None:
                yield f"{where}: '{name}' judges only data of the tiny world; '{dataset}' is not"


def _dataset(catalogue: Catalogue, where: str, name: str, kind: str) -> Iterator[str]:
    if name not in catalogue["datasets"]:
        yield from _named(catalogue, where, "datasets", name)
    elif catalogue["datasets"][name].kind != kind:
        yield f"{where}: '{name}' is of kind '{catalogue['datasets'][name].kind}'; kind '{kind}' is needed"


def _named(catalogue: Catalogue, where: str, section: str, name: str) -> Iterator[str]:
    if name not in catalogue[section]:
        known = ", ".join(catalogue[section]) or "none"
        yield f"{where}: no block '{name}' in {section}. Allowed: {known}.{likely_typo(name, catalogue[section])}"
