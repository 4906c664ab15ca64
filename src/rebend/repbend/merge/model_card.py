"""The model card of a merged model: base model, method, training data, licence and settings."""

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
    """The licence of a base model according to its folder; None and empty if the folder has none."""

    name: str | None  # an identifier of the hub, e.g. "apache-2.0"; "other" if there is only a licence file
    label: str | None  # the name of a licence without identifier
    link: str | None
    files: tuple[str, ...]  # names of the licence files


def base_licence(base: Path) -> Licence:
    """Return the licence of a model folder from the front matter of its card, else from its licence files."""
    files = tuple(file.name for file in terms_files(base) if file.name != _CARD)
    front = _front_matter(base / _CARD)
    name, label, link = (
        str(front[key]) if front.get(key) else None for key in ("license", "license_name", "license_link")
    )
    if name is None and files:
        name = "other"
    return Licence(name, label, link or (files[0] if name == "other" and files else None), files)


def model_card(base: Path, adapter: dict[str, Any], fingerprint: str, dtype: str) -> str:
    """Return the card of the model folder `base` merged with an adapter; `adapter` is its `adapter.json`."""
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
        f"stored as {dtype}.{_quantisation(base)}\n\nMethod `{settings['method']}`: {about}.\n\n"
        f"## Data\n\n{_data(adapter)}\n\n## Licence\n\n{_licence(base.name, licence)}\n\n"
        f"## Settings\n\n{_settings(adapter)}\n"
    )


def _quantisation(base: Path) -> str:
    """Return a sentence on the type that the base model's weights were stored as; "" for weights as published."""
    stored = _front_matter(base / _CARD).get("quantisation")
    return f" The base model's weights were converted from {stored} and keep its rounding." if stored else ""


def _front_matter(card: Path) -> dict[str, Any]:
    """Return the front matter of a card; empty if there is none or it cannot be read."""
    if not card.exists():
        return {}
    try:
        front = metadata_load(card)
    except (ValueError, yaml.YAMLError):
        return {}
    return front if isinstance(front, dict) else {}


def _data(adapter: dict[str, Any]) -> str:
    """Return the names of the training data; for a sum of adapters, those of its parts."""
    blocks = [described["settings"] for described in (adapter, *adapter.get("parts", []))]
    lines = dict.fromkeys(f"- {key}: `{block[key]}`" for block in blocks for key in _DATA if key in block)
    return "\n".join(lines) if lines else "Not known: the adapter was trained elsewhere."


def _settings(adapter: dict[str, Any]) -> str:
    """Return one line per key; for a sum of adapters, then the same for each part."""
    text = "\n".join(
        f"- {key}: {_portable(key, value)}" for key, value in adapter["settings"].items() if key != "parts"
    )
    for part, described in zip(adapter["settings"].get("parts", []), adapter.get("parts", []), strict=True):
        text += f"\n\n### {part['factor']} times `{part['adapter']}`\n\n{_settings(described)}"
    return text


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
    """Return the last part of a local path, the only part that other machines share; other values unchanged."""
    return Path(value).name if key == "local" and value else value
