"""Shapes of language models before a job runs: blocks, widths and vocabulary, from a configuration or a size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rebend.data.assets import model_asset
from rebend.errors import DataError
from rebend.io.files import read_json
from rebend.pipeline.cost.sizes import Facts
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.common import local_path

_VOCABULARY = 128_000  # tokens, of a model without configuration
_CONTEXT = 8192
_BLOCKS = 32


class Shape(NamedTuple):
    """The sizes of a decoder that its memory depends on."""

    parameters: float
    blocks: int
    width: int  # D
    inner: int  # width of the feed-forward layers
    key_width: int  # of the keys of one token, all heads together
    vocabulary: int
    context: int  # positions


def shape_of(facts: Facts, place: str) -> Shape | None:
    """Return the shape of the model at `results/<place>`; None if not even its number of parameters is known.

    It is read from the configuration of the prepared model, its source or its fetched repository; for a model trained
    in the graph from its block; else it is that of a usual model of the size that the repository's name states.
    """
    shelf, name = place.split("/")
    base = paths.base_and_adapter(name)[0]
    block: Any = facts.plan.config.catalogue.get(paths.SHELVES.get(shelf, ""), {}).get(base)
    parameters = facts.parameters(place)
    for folder in _folders(facts, place, shelf, base, block):
        with suppress(DataError, OSError, ValueError):
            if (shape := _configured(read_json(folder / "config.json"), parameters)) is not None:
                return shape
    if tiny := getattr(block, "tiny", None):
        model = tiny if hasattr(tiny, "hidden_size") else None
        return _tiny(model, parameters) if model else shape_of(facts, f"models/{tiny.model}")
    is_guess = f"{paths.ROOT}/{place}" in facts.guesses
    return None if is_guess or not parameters else _usual(parameters)


def _folders(facts: Facts, place: str, shelf: str, base: str, block: Any) -> Iterator[Path]:
    """Yield the folders that may hold the configuration of a model or of the base that an adapter is merged into."""
    yield from (Path(paths.ROOT, place), Path(paths.ROOT, shelf, base))
    if getattr(block, "local", None):
        yield Path(local_path(facts.plan.config, block.local))
    if getattr(block, "hub", None):
        with suppress(DataError, OSError):
            yield Path(read_json(paths.asset(model_asset(block.hub).name))["folder"])


def _configured(config: Mapping[str, Any], parameters: float) -> Shape | None:
    config = config.get("text_config", config)
    if "hidden_size" not in config or "num_hidden_layers" not in config:
        return None
    width = int(config["hidden_size"])
    heads = int(config.get("num_attention_heads") or 1)
    keys = int(config.get("num_key_value_heads") or heads) * int(config.get("head_dim") or width // heads)
    inner = int(config.get("intermediate_size") or config.get("ffn_hidden_size") or 4 * width)
    context = int(config.get("max_position_embeddings") or _CONTEXT)
    vocabulary = int(config.get("vocab_size") or _VOCABULARY)
    return Shape(parameters, int(config["num_hidden_layers"]), width, inner, keys, vocabulary, context)


def _tiny(tiny: Any, parameters: float) -> Shape:
    width = tiny.hidden_size
    return Shape(parameters, tiny.n_layers, width, 4 * width, width, tiny.vocab_size, tiny.context)


def _usual(parameters: float) -> Shape:
    width = round(math.sqrt(parameters / (12 * _BLOCKS)))
    return Shape(parameters, _BLOCKS, width, 4 * width, width, _VOCABULARY, _CONTEXT)
