"""Accept the old keys of configurations for one version: rename them before all checks.

Delete this module, its two calls in `rebend.config.load` and its test in the version after 0.1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rebend.errors import ConfigError

LOGGER = logging.getLogger(__name__)

SECTIONS = {"bends": "adapters", "values": "value_models"}
_EXAMPLES = {"samples": "examples", "pairs": "paired_examples", "retain": "retain_chats"}
_RESOURCES = {"needs": "resources"}
# New name of a section → old key of its blocks → new key
BLOCK_KEYS: dict[str, dict[str, str]] = {
    "models": _RESOURCES,
    "rewards": _RESOURCES,
    "encoders": _RESOURCES,
    "safety_judges": _RESOURCES,
    "adapters": {**_EXAMPLES, "fidelity": "variant"},
    "attacks": {"fidelity": "variant"},
    "value_models": {"fidelity": "variant", "trace": "td_lambda"},
    "controls": {"fidelity": "variant", "value": "value_model"},
}
PART_KEYS = {"bend": "adapter"}  # in the parts of a task arithmetic
GRID_KEYS = {"bends": "adapters"}
COLUMNS = {"bend": "adapter"}  # of a table, in the claims of a study
VARIANTS = {"published": "released_code"}  # values of `fidelity`, which is now `variant`
ROWS = ("where", "at_least", "at_most")  # keys of a claim that name columns
COMPARED = {"bend": "adapter"}  # values of the column `compares`


class Renamed(NamedTuple):
    """A configuration with current keys, and one warning for each of its old keys."""

    mapping: dict[str, Any]
    warnings: list[str]


class _Renaming:
    """Renames keys, and collects the places of old keys, and mistakes where both names occur."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], list[str]] = {}
        self.mistakes: list[str] = []

    def keys(self, mapping: Any, names: Mapping[str, str], place: str) -> Any:
        """Return `mapping` with the keys `names` renamed, in the same order; return other values unchanged."""
        if not isinstance(mapping, Mapping):
            return mapping
        for old, new in names.items():
            if old in mapping:
                self.places.setdefault((old, new), []).append(place)
                if new in mapping:
                    self.mistakes.append(f"{place}: `{old}` is the old name of `{new}`; give only `{new}`")
        return {names.get(key, key): value for key, value in mapping.items()}

    def result(self, mapping: dict[str, Any]) -> Renamed:
        """Return the mapping and its warnings. Raises ConfigError if a key occurs under both names."""
        if self.mistakes:
            raise ConfigError("\n  " + "\n  ".join(self.mistakes))
        return Renamed(mapping, [_warning(*names, places) for names, places in self.places.items()])


def renamed_catalogue(raw: Mapping[str, Any]) -> Renamed:
    """Return a catalogue with current keys. Raises ConfigError if a key occurs under both names."""
    renaming = _Renaming()
    catalogue = _sections(raw, renaming)
    for section, names in BLOCK_KEYS.items():
        if isinstance(catalogue.get(section), Mapping):
            catalogue[section] = {
                name: _block(block, names, f"{section}.{name}", renaming) for name, block in catalogue[section].items()
            }
    return renaming.result(catalogue)


def renamed_study(raw: Mapping[str, Any], place: str) -> Renamed:
    """Return a study with current keys. Raises ConfigError if a key occurs under both names."""
    renaming = _Renaming()
    study = dict(raw)
    study |= _items(study, "grids", lambda grid, at: renaming.keys(grid, GRID_KEYS, at), place)
    study |= _items(study, "claims", lambda claim, at: _claim(claim, at, renaming), place)
    return renaming.result(study)


def with_warnings(renamed: Renamed) -> dict[str, Any]:
    """Log each warning, and return the mapping.

    They appear in the terminal of the run; local jobs do not read the configuration again.
    """
    for line in renamed.warnings:
        LOGGER.warning(line)
    return renamed.mapping


def _sections(raw: Mapping[str, Any], renaming: _Renaming) -> dict[str, Any]:
    """Rename sections; merge the blocks of both names, because Snakemake merges configuration files."""
    catalogue = {key: value for key, value in raw.items() if key not in SECTIONS}
    for old, new in SECTIONS.items():
        if old not in raw:
            continue
        renaming.places.setdefault((old, new), []).append("")
        blocks, others = raw[old], catalogue.get(new)
        if isinstance(blocks, Mapping) and isinstance(others, Mapping):
            repeated = [name for name in blocks if name in others]
            renaming.mistakes += [f"{old}.{name}: {new}.{name} exists too; give only {new}.{name}" for name in repeated]
            blocks = {**others, **blocks}
        catalogue[new] = others if blocks is None else blocks
    return catalogue


def _block(block: Any, names: Mapping[str, str], place: str, renaming: _Renaming) -> Any:
    new = renaming.keys(block, names, place)
    if new is block:
        return block
    if "fidelity" in block:
        new["variant"] = _value(new["variant"], VARIANTS)
    if isinstance(new.get("parts"), list):
        new["parts"] = [renaming.keys(part, PART_KEYS, f"{place}.parts.{n}") for n, part in enumerate(new["parts"])]
    return new


def _claim(claim: Any, place: str, renaming: _Renaming) -> Any:
    if not isinstance(claim, Mapping):
        return claim
    rows = {key: renaming.keys(claim[key], COLUMNS, f"{place}.{key}") for key in ROWS if key in claim}
    for key, row in rows.items():
        if isinstance(row, dict) and row.get("compares") in COMPARED:
            renaming.places.setdefault(("compares: bend", "compares: adapter"), []).append(f"{place}.{key}")
            rows[key] = row | {"compares": _value(row["compares"], COMPARED)}
    return {**claim, **rows}


def _items(study: Mapping[str, Any], key: str, change: Callable[[Any, str], Any], place: str) -> dict[str, list[Any]]:
    """Return `{key: changed list}`; an empty dict if `study` has no list under `key`."""
    if not isinstance(study.get(key), list):
        return {}
    return {key: [change(item, f"{place}.{key}.{number}") for number, item in enumerate(study[key])]}


def _value(value: Any, names: Mapping[str, str]) -> Any:
    """Return the current name of a value, also inside `{sweep: [...]}`."""
    if isinstance(value, Mapping):
        return {key: _value(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_value(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _warning(old: str, new: str, places: list[str]) -> str:
    more = f" and {len(places) - 2} more" if len(places) > 2 else ""
    where = f" (in {', '.join(places[:2])}{more})" if places[0] else ""
    return f"rebend: `{old}` is an old key{where}; write `{new}`. The next version will refuse `{old}`."
