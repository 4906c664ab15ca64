"""The model card of a merged model: what it was made of, on which data, with which settings, under which licence."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load

from rebend.config.adapters import ADAPTERS
from rebend.models.loading import terms_files

_CARD = "README.md"
_DATA = ("examples", "paired_examples", "retain_chats")


@dataclass(frozen=True)
class Licence:
    """The terms of a base model, as its folder states them; all None and empty if it states none."""

    name: str | None  # an identifier of the hub's, e.g. "apache-2.0"; "other" if only a file says it
    label: str | None  # the name of a licence that has no identifier
    link: str | None
    files: tuple[str, ...]  # names of the files with its text


def base_licence(base: Path) -> Licence:
    """Read the licence of a model folder from the front matter of its card, else from its files of terms."""
    files = tuple(file.name for file in terms_files(base) if file.name != _CARD)
    front = _front_matter(base / _CARD)
    name, label, link = (
        str(front[key]) if front.get(key) else None for key in ("license", "license_name", "license_link")
    )
    if name is None and files:
        name = "other"
    return Licence(name, label, link or (files[0] if name == "other" and files else None), files)


def model_card(base: Path, adapter: dict[str, Any], fingerprint: str, dtype: str) -> str:
    """Return the card of the model folder `base` with the adapter that `adapter` (its `adapter.json`) describes."""
    settings = adapter["settings"]
    licence = base_licence(base)
    front = ModelCardData(
        base_model=base.name,
        license=licence.name,
        license_name=licence.label,
        license_link=licence.link,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["rebend", settings["method"]],
    )
    about = (
        inspect.cleandoc(ADAPTERS[settings["method"]].block.__doc__ or "").split(". ")[0].splitlines()[0].rstrip(".")
    )
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {base.name}, adapted\n\n"
        f"The model `{base.name}` (fingerprint {fingerprint}) with an adapter merged into its weights, "
        f"stored as {dtype}.\n\nMethod `{settings['method']}`: {about}.\n\n"
        f"## Data\n\n{_data(adapter)}\n\n## Licence\n\n{_licence(base.name, licence)}\n\n"
        f"## Settings\n\n{_settings(adapter)}\n"
    )


def _front_matter(card: Path) -> dict[str, Any]:
    """Return the front matter of a card; of one without, or one that cannot be read, nothing."""
    if not card.exists():
        return {}
    try:
        found = metadata_load(card)
    except (ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _data(adapter: dict[str, Any]) -> str:
    """Names of the training data; of a sum of adapters, those of its parts."""
    blocks = [described["settings"] for described in (adapter, *adapter.get("parts", []))]
    named = dict.fromkeys(f"- {key}: `{block[key]}`" for block in blocks for key in _DATA if key in block)
    return "\n".join(named) if named else "Not known: the adapter was trained elsewhere."


def _settings(adapter: dict[str, Any]) -> str:
    """One line per key; below those of a sum of adapters, the same of each part."""
    found = "\n".join(
        f"- {key}: {_portable(key, value)}" for key, value in adapter["settings"].items() if key != "parts"
    )
    for part, described in zip(adapter["settings"].get("parts", []), adapter.get("parts", []), strict=True):
        found += f"\n\n### {part['factor']} times `{part['adapter']}`\n\n{_settings(described)}"
    return found


def _licence(base_name: str, licence: Licence) -> str:
    if licence.name is None:
        return f"Licence of the base model: unknown (the folder of `{base_name}` states none)."
    where = f" Its text is in {', '.join(licence.files)}." if licence.files else ""
    link = f" ({licence.link})" if licence.link else ""
    return (
        f"Licence of the base model: {licence.label or licence.name}{link}.{where} "
        "It applies to this model too, as do the terms of the data sets."
    )


def _portable(key: str, value: Any) -> Any:
    """Of a path on the machine that this was made on, only the last part means anything elsewhere."""
    return Path(value).name if key == "local" and value else value
