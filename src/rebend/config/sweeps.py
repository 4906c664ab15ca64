"""Short forms in the catalogue, expanded into ordinary blocks before anything is checked.

`like: other` copies another block of the section (but not `label` and `published`) and changes the keys given beside
it.
`key: {sweep: [a, b]}` makes one block per value (per combination, with several such keys), named
`<block>_<key>_<value>`; whoever names the block itself gets all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from rebend.errors import ConfigError, likely_typo

Section = dict[str, dict[str, Any]]
_OWN = ("label", "published")  # say of one block what it is called; a changed copy is another thing


def expand(section: str, blocks: Mapping[str, Any]) -> tuple[Section, dict[str, list[str]]]:
    """Return plain blocks, and for each swept block the names that it became."""
    plain: Section = {}
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
            variant = "_".join([name, *(f"{key}_{_word(value)}" for key, value in choice.items())])
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
        raise ConfigError(f"{section}.{name}.like: goes round in a circle ({' → '.join([*seen, base])})")
    inherited = {k: v for k, v in _with_base(section, base, blocks, (*seen, name)).items() if k not in _OWN}
    return {**inherited, **{k: v for k, v in block.items() if k != "like"}}


def _is_sweep(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"sweep"}


def _values(section: str, name: str, key: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{section}.{name}.{key}.sweep: a list of values is expected, got {values!r}")
    return values


def _word(value: Any) -> str:
    """A value as part of a name: 0.5 → 0p5, -1 → m1, [20, 21] → 20_21."""
    if isinstance(value, list):
        return "_".join(_word(item) for item in value)
    return str(value).lower().replace(".", "p").replace("-", "m").replace("+", "")
