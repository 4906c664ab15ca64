"""Load a study and check references between blocks: names must exist, be of the right kind, and fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rebend.config.adapters import RepBendBlock, TaskArithmeticBlock, TrainedAdapter, WhpBlock
from rebend.config.base import Block, references
from rebend.config.controls import PROMPTS_ONLY, TunedBlock
from rebend.config.load import load_config
from rebend.config.study import Grid, Study
from rebend.errors import ConfigError, allowed_names
from rebend.pipeline.checks.datasets import dataset_mistakes, is_of_world
from rebend.pipeline.checks.published import label_mistakes, published_mistakes
from rebend.pipeline.checks.texts import text_mistakes
from rebend.pipeline.graph.cells import Seeds
from rebend.pipeline.graph.plan import Plan

Catalogue = Mapping[str, Mapping[str, Any]]
_SHAPE = ("lora_r", "lora_alpha", "transform_layers")  # of an adapter


def load_plan(raw: Mapping[str, Any], studies: str | Path) -> Plan:
    """Return the plan of the study that `raw` names, after all checks of the configuration.

    Raises `ConfigError` with every mistake.
    """
    config = load_config(raw, studies)
    if mistakes := reference_mistakes(config.catalogue, config.study_name, config.study, config.seeds):
        raise ConfigError("\n  " + "\n  ".join(mistakes))
    return Plan(config)


def reference_mistakes(catalogue: Catalogue, study_name: str, study: Study, seeds: Seeds) -> list[str]:
    """Return one message per name of a missing block, and per combination of blocks that does not fit."""
    mistakes: list[str] = []
    for name in catalogue["datasets"]:
        mistakes += dataset_mistakes(catalogue, name)
    for section, blocks in catalogue.items():
        for name, block in blocks.items():
            mistakes += _name_mistakes(catalogue, block, f"{section}.{name}")
    mistakes += [*_strength_mistakes(catalogue), *_sum_mistakes(catalogue)]
    mistakes += [*_reinforced_mistakes(catalogue), *_class_mistakes(catalogue)]
    mistakes += [*published_mistakes(catalogue), *label_mistakes(catalogue, study_name, study, seeds)]
    for number, grid in enumerate(study.grids):
        where = f"studies.{study_name}.grids.{number}"
        mistakes += _name_mistakes(catalogue, grid, where)
        mistakes += [*_layer_mistakes(catalogue, grid, where), *_leakage_mistakes(catalogue, grid, where)]
        mistakes += [*_world_judge_mistakes(catalogue, grid, where), *_attempt_mistakes(catalogue, grid, where)]
        mistakes += [*_probe_mistakes(catalogue, grid, where), *_chat_mistakes(catalogue, grid, where)]
        mistakes += text_mistakes(catalogue, grid, where)
    return mistakes


def _name_mistakes(catalogue: Catalogue, block: Block, where: str) -> Iterator[str]:
    for key, section, kind, name in references(block):
        if name == "none" and section == "adapters" and isinstance(block, Grid):
            continue  # the base model itself
        known = catalogue[section]
        if name not in known:
            yield f"{where}.{key}: no block '{name}' in {section}. {allowed_names(name, known)}"
        elif kind is not None and known[name].kind != kind:
            yield f"{where}.{key}: '{name}' is of kind '{known[name].kind}'; kind '{kind}' is needed"


def _strength_mistakes(catalogue: Catalogue) -> Iterator[str]:
    for name, control in catalogue["controls"].items():
        other = catalogue["controls"].get(getattr(control, "strength_of", None) or "")
        if other is None:
            continue
        where = f"controls.{name}.strength_of: '{control.strength_of}'"
        if not isinstance(other, TunedBlock) or other.choice is None:
            yield f"{where} chooses no strength (it has no `choice`)"
        elif other.strength != control.strength or _steps(other) != _steps(control):
            yield f"{where} has other keys of strength, or other `n_steps`; its strength cannot be used here"


def _steps(control: TunedBlock) -> Any:
    return getattr(control, "n_steps", None)


def _sum_mistakes(catalogue: Catalogue) -> Iterator[str]:
    """Yield parts of a sum that are not trained here, or whose LoRA shape differs from that of the first part.

    Parts that are trained here are no sums themselves, so sums cannot form a cycle.
    """
    for name, block in catalogue["adapters"].items():
        if not isinstance(block, TaskArithmeticBlock):
            continue
        parts = [(part.adapter, catalogue["adapters"].get(part.adapter)) for part in block.parts]
        first = next((adapter for _, adapter in parts if isinstance(adapter, TrainedAdapter)), None)
        for number, (part_name, part) in enumerate(parts):
            where = f"adapters.{name}.parts.{number}.adapter"
            if isinstance(part, TrainedAdapter) and first is not None:
                if different := [key for key in _SHAPE if getattr(part, key) != getattr(first, key)]:
                    keys = ", ".join(different)
                    yield f"{where}: '{part_name}' is unlike the first part in {keys}: they cannot be added"
            elif part is not None:
                yield f"{where}: '{part_name}' (method {part.method}) isn't trained here; a sum needs trained adapters"


def _reinforced_mistakes(catalogue: Catalogue) -> Iterator[str]:
    """Yield adapters of WHP that compare with one of WHP: so none compares with itself, and there is no cycle."""
    for name, block in catalogue["adapters"].items():
        if isinstance(block, WhpBlock):
            other = catalogue["adapters"].get(block.reinforced)
            if isinstance(other, WhpBlock):
                where = f"adapters.{name}.reinforced"
                yield f"{where}: '{block.reinforced}' is an adapter of WHP; name one trained on unsafe answers"


def _class_mistakes(catalogue: Catalogue) -> Iterator[str]:
    """Yield classes of WildGuardMix that the released code of RepBend does not use with a loss mode."""
    for name, block in catalogue["adapters"].items():
        if not isinstance(block, RepBendBlock) or block.variant != "released_code":
            continue
        reads_prompts = block.loss_mode in ("prompt_last", "prompt_all")
        wrong, right = ("wildguardmix", "wildguardmix_prompts")[:: 1 if reads_prompts else -1]
        data = catalogue["datasets"].get(block.examples)
        if data is not None and data.reader == wrong:
            yield (
                f"adapters.{name}.examples: '{block.examples}' has the reader {wrong}; with loss_mode "
                f"{block.loss_mode}, the released code classes rows as the reader {right} does (variant corrected "
                "accepts both)"
            )


def _with_parts(adapters: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """Yield names of adapters, each followed by the names of those that it is made with."""
    for name in names:
        yield name
        block = adapters.get(name)
        yield from (part.adapter for part in block.parts) if isinstance(block, TaskArithmeticBlock) else ()
        yield from [block.reinforced] if isinstance(block, WhpBlock) else ()


def _layer_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Yield layers of adapters that are beyond the last block of a model whose depth is known."""
    for model_name in grid.models:
        model = catalogue["models"].get(model_name)
        depth = model and (model.tiny.n_layers if model.tiny else model.n_layers)
        if not depth:
            continue
        for adapter_name in _with_parts(catalogue["adapters"], grid.adapters):
            adapter = catalogue["adapters"].get(adapter_name)
            if adapter is None:
                continue
            last = adapter.last_target() if isinstance(adapter, TrainedAdapter) else None
            if last is not None and last > depth:
                yield (
                    f"adapters.{adapter_name}: its target layers reach hidden_states[{last}]; model '{model_name}' (in "
                    f"{where}) has {depth} blocks, so at most hidden_states[{depth}]"
                )
            for block in adapter.transform_layers if isinstance(adapter, TrainedAdapter) else []:
                if block >= depth or block < -1:
                    mistake = f"{block} is beyond the {depth} blocks of '{model_name}'"
                    yield f"adapters.{adapter_name}.transform_layers: {mistake}"


def _leakage_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Yield reported prompts and held-out rewards that a control was trained or tuned on."""
    for name in grid.controls:
        control = catalogue["controls"].get(name)
        for activations_name, reward in _training_sources(catalogue, control):
            activations = catalogue["activations"].get(activations_name)
            if activations is not None and activations.dataset in grid.prompts:
                yield f"{where}.prompts: '{activations.dataset}' trains what '{name}' uses; report on other prompts"
            if reward == grid.heldout_reward:
                yield f"{where}.heldout_reward: '{reward}' labels what '{name}' learns from; it is not held out"
        choice = getattr(control, "choice", None)
        if choice is not None and choice.dataset in grid.prompts:
            yield f"{where}.prompts: '{choice.dataset}' tunes '{name}'; report on other prompts"
        steering = [choice.reward if choice is not None else None, getattr(control, "reward", None)]
        if grid.heldout_reward is not None and grid.heldout_reward in steering:
            yield f"{where}.heldout_reward: '{grid.heldout_reward}' steers '{name}'; it is not held out"
        if grid.evaluation and isinstance(control, PROMPTS_ONLY):
            yield (
                f"{where}.controls: '{name}' picks among responses, which is for `prompts` only (an attack has "
                "`attempts`); give it a grid without `evaluation`"
            )


def _training_sources(catalogue: Catalogue, control: Any) -> Iterator[tuple[str, str]]:
    """Yield (activations, reward) of the value network and of the direction that a control uses."""
    for key, section in (("value_model", "value_models"), ("direction", "directions")):
        block = catalogue[section].get(getattr(control, key, None) or "")
        if block is not None and hasattr(
            block, "activations"
        ):  # a released value network does not name its training data
            yield block.activations, block.reward


def _world_judge_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Yield judges of the tiny world that are used on other data: they know only the rules of this world."""
    pairs = [(grid.judge, "judges", grid.prompts)]
    pairs += [(name, "safety_judges", grid.evaluation) for name in grid.safety_judges]
    for name, section, datasets in pairs:
        judge = catalogue[section].get(name) if name else None
        if judge is None or not judge.method.startswith("world_"):
            continue
        for dataset in datasets:
            if dataset in catalogue["datasets"] and not is_of_world(catalogue, dataset):
                yield f"{where}: '{name}' judges only data of the tiny world; '{dataset}' is not"


def _probe_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Yield attacks whose probes would be fitted to the very prompts that they attack."""
    for name in grid.attacks if grid.evaluation else []:
        learnt = getattr(catalogue["attacks"].get(name), "probe_prompts", None)
        if learnt in grid.evaluation:
            yield (
                f"{where}.attacks: '{name}' has probe_prompts '{learnt}', which `evaluation` attacks; "
                "give it another data set"
            )


def _chat_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Yield held-out chats that a model or an adapter of the grid learns from."""
    learning = [("models", name) for name in grid.models]
    learning += [("adapters", name) for name in dict.fromkeys(_with_parts(catalogue["adapters"], grid.adapters))]
    for section, name in learning:
        block = catalogue[section].get(name)
        for key, named, _, dataset in references(block) if block is not None else ():
            if named == "datasets" and dataset in grid.held_out_chats:
                yield f"{where}.held_out_chats: {section}.{name}.{key} learns from '{dataset}'; name other chats"


def _attempt_mistakes(catalogue: Catalogue, grid: Grid, where: str) -> Iterator[str]:
    """Yield attacks with several attempts under greedy decoding, if only sampling would make the attempts differ."""
    for attack_name in grid.attacks if grid.evaluation else []:
        attack = catalogue["attacks"].get(attack_name)
        if attack is None or attack.attempts == 1 or attack.method not in ("direct", "prefilling", "scav"):
            continue
        for control_name in grid.controls:
            control = catalogue["controls"].get(control_name)
            if control is not None and control.decoding.temperature == 0:
                yield (
                    f"{where}.attacks: '{attack_name}' has {attack.attempts} attempts, but control '{control_name}' "
                    "decodes greedily (temperature 0): all attempts would be the same"
                )
