"""Copies of a block (`like`), and one block per value of a key (`sweep`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from rebend.errors import ConfigError, likely_typo

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
