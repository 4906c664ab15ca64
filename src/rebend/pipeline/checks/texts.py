"""Check that models, data sets and rewards of a grid have prompts of one form: dialogues, or released texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rebend.config.study import Grid

Catalogue = Mapping[str, Mapping[str, Any]]


def text_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> list[str]:
    """Return one message per block whose key `variant` is not that of the model: its prompts would be no prompts."""
    mistakes = []
    for model_name in grid.models:
        model = catalogue["models"].get(model_name)
        if model is None:
            continue
        for key, section, name in dict.fromkeys(readers_of_prompts(catalogue, grid)):
            block = catalogue[section].get(name)
            variant = getattr(block, "variant", "corrected")  # data sets made from others have no other
            if block is not None and variant != model.variant:
                mistakes.append(
                    f"{where}.{key}: '{name}' (in {section}) is of `variant: {variant}`, model '{model_name}' of "
                    f"`variant: {model.variant}`; give blocks of one variant"
                )
        if model.variant == "released_code" and (trained := [name for name in grid.adapters if name != "none"]):
            mistakes.append(f"{where}.adapters: '{trained[0]}' trains on dialogues; '{model_name}' writes none")
    return mistakes


def readers_of_prompts(catalogue: Catalogue, grid: Grid) -> Iterator[tuple[str, str, str]]:
    """Yield (key of the grid, section, name) of the data sets and rewards that the grid and its controls use."""
    for key in ("prompts", "evaluation"):
        yield from ((key, "datasets", name) for name in getattr(grid, key))
    for key in ("reward", "heldout_reward"):
        if getattr(grid, key):
            yield key, "rewards", getattr(grid, key)
    for control_name in grid.controls:
        control = catalogue["controls"].get(control_name)
        choice = getattr(control, "choice", None)
        if choice is not None:
            yield "controls", "datasets", choice.dataset
        learnt = [catalogue[f"{key}s"].get(getattr(control, key, None) or "") for key in ("value_model", "direction")]
        for source in (control, choice, *learnt):
            if reward := getattr(source, "reward", None):
                yield "controls", "rewards", reward
            activations = catalogue["activations"].get(getattr(source, "activations", None) or "")
            if activations is not None:
                yield "controls", "datasets", activations.dataset
