"""Read and check a configuration, before any job starts, and collect one message per mistake."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rebend.config.aliases import renamed_catalogue, renamed_study, with_warnings
from rebend.config.base import Block, Method
from rebend.config.catalogue import CATALOGUE
from rebend.config.study import Caps, Study
from rebend.errors import ConfigError, likely_typo

_TOP = ("study", "data", "budget")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_STUDY = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Config:
    """A checked catalogue, and the study to run."""

    study_name: str
    study: Study
    data: Path
    catalogue: Mapping[str, Mapping[str, Any]]
    budget: Caps = field(default_factory=Caps)

    def __getitem__(self, section: str) -> Mapping[str, Any]:
        """Return the blocks of a section of the catalogue by name."""
        return self.catalogue[section]


def load_config(raw: Mapping[str, Any], studies: str | Path) -> Config:
    """Return the checked configuration `raw` and its study. Raises `ConfigError` with all mistakes."""
    raw = with_warnings(renamed_catalogue(raw))
    mistakes = [
        f"{key}: unknown key. Allowed: {', '.join([*_TOP, *CATALOGUE])}.{likely_typo(key, [*_TOP, *CATALOGUE])}"
        for key in raw
        if key not in _TOP and key not in CATALOGUE
    ]
    catalogue: dict[str, dict[str, Any]] = {}
    families: dict[str, dict[str, list[str]]] = {}
    for section, kind in CATALOGUE.items():
        plain, families[section] = expand(section, _mapping(raw.get(section), section))
        catalogue[section] = {}
        for name, block in plain.items():
            mistakes += _name_mistakes(section, name)
            parsed, new_mistakes = _parse(kind, block, f"{section}.{name}")
            mistakes += new_mistakes
            if parsed is not None:
                catalogue[section][name] = parsed
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
    return Config(study_name, study, Path(str(raw.get("data", "resources/data"))), catalogue, budget)


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
            allowed = f"Allowed: {', '.join(kind)}.{likely_typo(method, kind)}"
            return None, [f"{where}.method: {f'got {method!r}' if method else 'this key is needed'}. {allowed}"]
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
        keys = list(_fields_at(kind, error["loc"][:-1]))
        return f"{place}: unknown key. Allowed: {', '.join(keys)}.{likely_typo(error['loc'][-1], keys)}"
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


_NOT_INHERITED = ("label", "published")  # they name one block, not its changed copies


def expand(section: str, blocks: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return the blocks of a section without short forms, and the names of the blocks from each sweep.

    `like: other` copies another block of the section and changes the keys beside it. `key: {sweep: [a, b]}` makes one
    block per value (per combination of values, with several such keys), named `<block>_<key>_<value>`; a grid that
    names the block gets all of them. Raises `ConfigError` for a short form with a mistake.
    """
    plain: dict[str, dict[str, Any]] = {}
    families: dict[str, list[str]] = {}
    for name in blocks:
        block = _with_base(section, name, blocks, ())
        swept = {key: value["sweep"] for key, value in block.items() if _is_sweep(value)}
        if not swept:
            plain[name] = block
            continue
        families[name] = []
        for values in itertools.product(*(_values(section, name, key, swept[key]) for key in swept)):
            choice = dict(zip(swept, values, strict=True))
            variant = "_".join([name, *(f"{key}_{_name_part(value)}" for key, value in choice.items())])
            plain[variant] = {**block, **choice}
            families[name].append(variant)
    return plain, families


def _with_base(section: str, name: str, blocks: Mapping[str, Any], seen: tuple[str, ...]) -> dict[str, Any]:
    block = blocks[name]
    if not isinstance(block, Mapping):
        raise ConfigError(f"{section}.{name}: a block of keys is expected, got {block!r}")
    if "like" not in block:
        return dict(block)
    base = block["like"]
    if base not in blocks:
        raise ConfigError(f"{section}.{name}.like: no block '{base}' in {section}.{likely_typo(base, blocks)}")
    if base in seen:
        raise ConfigError(f"{section}.{name}.like: is circular ({' → '.join([*seen, base])})")
    inherited = {k: v for k, v in _with_base(section, base, blocks, (*seen, name)).items() if k not in _NOT_INHERITED}
    return {**inherited, **{k: v for k, v in block.items() if k != "like"}}


def _is_sweep(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"sweep"}


def _values(section: str, name: str, key: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{section}.{name}.{key}.sweep: a list of values is expected, got {values!r}")
    return values


def _name_part(value: Any) -> str:
    """Return a value as part of a name: 0.5 → 0p5, -1 → m1, [20, 21] → 20_21."""
    if isinstance(value, list):
        return "_".join(_name_part(item) for item in value)
    return str(value).lower().replace(".", "p").replace("-", "m").replace("+", "")
