"""Read and check a configuration, before any job starts, and collect one message per mistake."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rebend.config.aliases import renamed_catalogue, renamed_study, with_warnings
from rebend.config.base import Block, Method, NamedBlock, references
from rebend.config.catalogue import CATALOGUE, block_class
from rebend.config.short_forms.sweeps import expand
from rebend.config.study import Caps, Study
from rebend.errors import ConfigError, allowed_names, likely_typo

_TOP = ("study", "data", "budget")
_MANUAL = "config/README.md"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SEEDS = "seeds"
_SEEDED = ("adapters", "value_models")  # sections whose blocks may have the key `seeds`
Place = tuple[str, str]  # section and name of a block
_STUDY = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Config:
    """A checked catalogue, and the study to run."""

    study_name: str
    study: Study
    data: Path
    catalogue: Mapping[str, Mapping[str, Any]]
    budget: Caps = field(default_factory=Caps)
    seeds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # section → block of one seed → the seed

    def __getitem__(self, section: str) -> Mapping[str, Any]:
        """Return the blocks of a section of the catalogue by name."""
        return self.catalogue[section]


def load_config(raw: Mapping[str, Any], studies: str | Path) -> Config:
    """Return the checked configuration `raw` and its study. Raises `ConfigError` with all mistakes."""
    raw = with_warnings(renamed_catalogue(raw))
    mistakes = [
        f"{key}: unknown key. {allowed_names(key, [*_TOP, *CATALOGUE], _MANUAL)}"
        for key in raw
        if key not in _TOP and key not in CATALOGUE
    ]
    catalogue: dict[str, dict[str, Any]] = {}
    families: dict[str, dict[str, list[str]]] = {}
    plain: dict[str, dict[str, dict[str, Any]]] = {}
    own: dict[Place, list[int]] = {}
    for section in CATALOGUE:
        plain[section], families[section] = expand(section, _mapping(raw.get(section), section))
        catalogue[section] = {}
        for name, block in plain[section].items():
            mistakes += _name_mistakes(section, name)
            seeds = block.pop(_SEEDS, None)
            parsed, new_mistakes = _parse(block_class(section, block), block, f"{section}.{name}")
            mistakes += new_mistakes
            if parsed is not None:
                catalogue[section][name] = parsed
                mistakes += [] if seeds is None else _seeds_mistakes(section, name, parsed, seeds)
                own |= {} if seeds is None else {(section, name): seeds}
    one_seed: dict[str, dict[str, int]] = {}
    if not mistakes:
        one_seed, mistakes = _with_seeds(catalogue, plain, own, families)
    budget, new_mistakes = _parse(Caps, _mapping(raw.get("budget"), "budget"), "budget")
    mistakes += new_mistakes
    name_or_path = str(raw.get("study", "tiny"))
    study, new_mistakes = _load_study(name_or_path, Path(studies), families)
    study_name = Path(name_or_path).stem
    mistakes += new_mistakes
    if study is not None and not _STUDY.fullmatch(study_name):
        mistakes.append(
            f"study: '{study_name}' is not a valid name: use small letters, digits and '_' in the name of the file"
        )
    if mistakes or study is None:
        raise ConfigError("\n  " + "\n  ".join(mistakes))
    data = Path(str(raw.get("data", "resources/data")))
    return Config(study_name, study, data, catalogue, budget, one_seed)


def _load_study(name: str, folder: Path, families: Mapping[str, Any]) -> tuple[Study | None, list[str]]:
    """Return the study in `<folder>/<name>.yaml` (or in the file `name`, if it ends with .yaml) and its mistakes."""
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        allowed = f"Allowed: {', '.join(known)}, or the path of a .yaml file."
        return None, [f"study: there is no '{name}'. {allowed}{likely_typo(name, known)}"]
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        return None, [f"{path}: not readable as YAML: {error}"]
    raw = with_warnings(renamed_study(_mapping(raw, str(path)), path.stem))
    for grid in raw.get("grids") or []:
        if isinstance(grid, dict):
            for key, section in (("models", "models"), ("adapters", "adapters"), ("controls", "controls")):
                grid[key] = _unfold(grid[key], families[section]) if key in grid else ["none"]
    return _parse(Study, raw, f"studies.{path.stem}")


def _unfold(names: Any, families: Mapping[str, list[str]]) -> Any:
    if not isinstance(names, list):
        return names
    return [variant for name in names for variant in families.get(name, [name])]


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: keys are expected, got {value!r}")
    return dict(value)


def _name_mistakes(section: str, name: str) -> list[str]:
    if not _NAME.fullmatch(str(name)):
        return [f"{section}.{name}: a name has small letters, digits and '_', and begins with a letter"]
    if name == "none" and section == "adapters":
        return ["adapters.none: this name is reserved for the base model"]
    return []


def _parse(kind: type[Block] | Mapping[str, Method], block: Mapping[str, Any], where: str) -> tuple[Any, list[str]]:
    if isinstance(kind, Mapping):
        method = str(block.get("method", _default_method(kind)))
        if method not in kind:
            problem = f"got {method!r}" if method else "this key is needed"
            return None, [f"{where}.method: {problem}. {allowed_names(method, kind, _MANUAL)}"]
        kind = kind[method].block
    try:
        return kind.model_validate(block), []
    except ValidationError as error:
        return None, [_message(kind, problem, where) for problem in error.errors()]


def _default_method(kinds: Mapping[str, Method]) -> str:
    """Return the default method of a section; "" if it has none."""
    return next((name for name, method in kinds.items() if not method.block.model_fields["method"].is_required()), "")


def _message(kind: type[Block], error: Any, where: str) -> str:
    """Return the message for one error of pydantic."""
    place = ".".join([where, *(str(part) for part in error["loc"])])
    value = error["input"]
    if error["type"] == "extra_forbidden":
        keys = _fields_at(kind, error["loc"][:-1])
        return f"{place}: unknown key. {allowed_names(error['loc'][-1], keys, _MANUAL)}"
    if error["type"] == "missing":
        return f"{place}: this key is needed"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}"
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return f"{place}: '{value}' is text to YAML; write the number with a point: {float(value):.1e}"
    words = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    return f"{place}: got {value!r}. {error['msg']}.{likely_typo(value, words)}"


def _fields_at(kind: type[Block], loc: Iterable[Any]) -> Iterable[str]:
    """Return the allowed keys at a place inside a block."""
    for part in loc:
        if isinstance(part, str) and part in kind.model_fields:
            inner = _block_in(kind.model_fields[part].annotation)
            if inner is None:
                return []
            kind = inner
    return kind.model_fields


def _block_in(annotation: Any) -> type[Block] | None:
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    return next((block for arg in getattr(annotation, "__args__", ()) if (block := _block_in(arg))), None)


def _seeds_mistakes(section: str, name: str, block: Block, seeds: Any) -> list[str]:
    where = f"{section}.{name}.{_SEEDS}"
    if section not in _SEEDED or "seed" not in type(block).model_fields:
        return [f"{where}: only blocks of {', '.join(_SEEDED)} that have a `seed` are trained over several seeds"]
    numbers = isinstance(seeds, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in seeds)
    if not numbers or not seeds or len(set(seeds)) < len(seeds):
        return [f"{where}: got {seeds!r}. A list of different whole numbers from 0 is expected, e.g. [0, 1, 2]"]
    return []


def _with_seeds(
    catalogue: dict[str, dict[str, Any]],
    plain: Mapping[str, Mapping[str, dict[str, Any]]],
    own: Mapping[Place, list[int]],
    families: Mapping[str, dict[str, list[str]]],
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Replace each block with `seeds`, and each block that names one, by a block `<block>_seed_<n>` per seed.

    All of them keep the label of the block, so that tables fold them into one row, and name the blocks of their own
    seed. Changes `catalogue` and `families`. Returns section → block → seed, and the mistakes.
    """
    seeded, mistakes = _inherited_seeds(catalogue, own)
    one_seed: dict[str, dict[str, int]] = {}
    for section, blocks in catalogue.items():
        variants: dict[str, list[str]] = {}
        for name, block in list(blocks.items()):
            del blocks[name]  # to keep the order
            for n in seeded.get((section, name), []):
                variant = f"{name}_seed_{n}"
                raw = _of_seed(plain[section][name], block, seeded, n, own=(section, name) in own, label=name)
                parsed, new_mistakes = _parse(block_class(section, raw), raw, f"{section}.{variant}")
                taken = [f"{section}.{variant}: this name is that of a seed of '{name}'"] * (variant in plain[section])
                mistakes += [*new_mistakes, *taken]
                blocks[variant] = parsed
                one_seed.setdefault(section, {})[variant] = n
                variants.setdefault(name, []).append(variant)
            if name not in variants:
                blocks[name] = block
        swept = {family: _unfold(names, variants) for family, names in families[section].items()}
        families[section].update({**variants, **swept})
    return one_seed, mistakes


def _inherited_seeds(
    catalogue: Mapping[str, Mapping[str, Any]], own: Mapping[Place, list[int]]
) -> tuple[dict[Place, list[int]], list[str]]:
    """Return the seeds of each block that has `seeds` or names such a block, directly or not, and the mistakes."""
    seeded, mistakes, before = dict(own), [], -1
    while len(seeded) > before:
        before = len(seeded)
        for section, blocks in catalogue.items():
            for name, block in blocks.items():
                for reference in references(block):
                    seeds = seeded.get((reference.section, reference.name))
                    others = seeds and seeded.setdefault((section, name), seeds)
                    if others != seeds:
                        message = f"'{reference.name}' has the seeds {seeds}, but this block those of {others}"
                        mistakes.append(f"{section}.{name}.{reference.key}: {message}; give both the same")
    return seeded, list(dict.fromkeys(mistakes))


def _of_seed(
    raw: Mapping[str, Any], block: Block, seeded: Mapping[Place, list[int]], n: int, *, own: bool, label: str
) -> dict[str, Any]:
    """Return the keys of a block for one seed: its `seed`, its label, and the names of the blocks of this seed."""
    keys = copy.deepcopy(dict(raw)) | ({"seed": n} if own else {})
    keys |= {"label": block.label or label} if isinstance(block, NamedBlock) else {}
    for reference in references(block):
        if (reference.section, reference.name) in seeded:
            *parents, last = reference.key.split(".")
            place: Any = keys
            for part in parents:
                place = place[int(part) if part.isdigit() else part]
            new = f"{reference.name}_seed_{n}"
            listed = isinstance(place[last], list)
            place[last] = [new if name == reference.name else name for name in place[last]] if listed else new
    return keys
