"""Settings of blocks with printed numbers beside them that are not the paper's: tables mark such a block with "*"."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rebend.config.adapters import TrainedAdapter
from rebend.config.base import Block, NamedBlock, references
from rebend.config.controls import AscentBlock
from rebend.config.load import Config

FOLDER = Path(__file__).parents[4] / "resources/published"  # of the checkout, not of the current folder
MARK = "*"
# Column of repbend_hyperparameters.csv → key of an adapter's block
_REPBEND = {
    "safe_coefficient": "alpha", "unsafe_coefficient": "beta", "cosine_coefficient": "gamma",
    "kl_coefficient": "epsilon", "learning_rate": "lr", "batch_size": "batch_size", "steps": "max_step",
    "lora_rank": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout",
}  # fmt: skip
# Column of recontrol_hyperparameters.csv → key of a control, of its decoding, or of its value model
_RECONTROL = {
    "step_size": "step_size", "updates": "n_steps", "max_new_tokens": "decoding.max_new_tokens",
    "value_layers": "value_model.n_layers", "value_hidden": "value_model.hidden_size",
    "value_learning_rate": "value_model.lr", "value_batch_size": "value_model.batch_size",
    "value_epochs": "value_model.epochs",
}  # fmt: skip
# Keys that change no result, or that the paper's runs have in several values
_FREE = {"method", "label", "published", "seed", "micro_batch", "gradient_checkpointing", "ranks", "zero", "max_step"}
Deviations = dict[str, str]  # key → our value and the paper's, as words


def adapter_deviations(config: Config, base: str, adapter: str, folder: Path = FOLDER) -> Deviations:
    """Return the keys of a trained adapter with a printed name in which it is not the paper's run on this model.

    The defaults of the methods are the settings of the paper's runs (appendix A.2). RepBend's are printed by model; for
    a model without printed settings those count that are the same for all models.
    """
    block = config["adapters"].get(adapter)
    if not isinstance(block, TrainedAdapter) or not block.printed_names:
        return {}
    fields = type(block).model_fields
    named = {reference.key.partition(".")[0] for reference in references(block)}
    fixed = {name for name, field in fields.items() if not field.is_required()} - named - _FREE
    expected = {name: fields[name].get_default(call_default_factory=True) for name in fixed}
    if block.method == "repbend":
        expected |= {_REPBEND[column]: value for column, value in _of_model(config, base, "repbend", folder).items()}
    return _differences(block, expected)


def control_deviations(config: Config, base: str, control: str, folder: Path = FOLDER) -> Deviations:
    """Return the keys of an ascent with a printed name in which it is none of the paper's runs with this model."""
    block = config["controls"].get(control)
    if not isinstance(block, AscentBlock) or not block.printed_names:
        return {}
    value_model = config["value_models"][block.value_model]
    owners = {"decoding": block.decoding, "value_model": value_model}
    found = []
    for row in _rows("recontrol", folder):
        if row["model"] not in _printed(config, base):
            continue
        differing: Deviations = {}
        for column, path in _RECONTROL.items():
            owner, _, key = path.rpartition(".")
            differing |= _differences(owners.get(owner, block), {key: _number(row[column])}, owner)
        found.append(differing)
    return min(found, key=len, default={})


def deviations(config: Config, base: str, adapter: str, control: str) -> dict[str, Deviations]:
    """Return part of a cell (adapter, control) → its deviations from the paper, for parts that have any."""
    parts = {"adapter": adapter_deviations(config, base, adapter), "control": control_deviations(config, base, control)}
    return {part: found for part, found in parts.items() if found}


def _differences(block: Block, expected: Mapping[str, Any], owner: str = "") -> Deviations:
    """Return the keys with another value than expected. A released value model does not say how it was trained."""
    ours = {key: getattr(block, key) for key in expected if hasattr(block, key)}
    head = f"{owner}." if owner else ""
    return {
        f"{head}{key}": f"{value} instead of {expected[key]}" for key, value in ours.items() if value != expected[key]
    }


def _of_model(config: Config, base: str, paper: str, folder: Path) -> dict[str, Any]:
    """Return column → printed setting of RepBend for a base model, or those that all models share."""
    rows = _rows(paper, folder)
    own = [row for row in rows if row["model"] in _printed(config, base)] or list(rows)
    return {
        column: _number(own[0][column])
        for column in (_REPBEND if own else ())
        if all(row[column] == own[0][column] for row in own)
    }


def _printed(config: Config, base: str) -> list[str]:
    block = config["models"][base]
    return block.printed_names if isinstance(block, NamedBlock) else []


@cache
def _rows(paper: str, folder: Path) -> tuple[dict[str, str], ...]:
    file = folder / f"{paper}_hyperparameters.csv"
    if not file.is_file():
        return ()
    with file.open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def _number(text: str) -> int | float:
    return float(text) if any(sign in text for sign in ".e") else int(text)
