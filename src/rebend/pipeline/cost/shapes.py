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
    size = facts.parameters(place)
    parameters = None if f"{paths.ROOT}/{place}" in facts.guesses else size
    for folder in _folders(facts, place, shelf, base, block):
        with suppress(DataError, OSError, ValueError):
            if (shape := _configured(read_json(folder / "config.json"), parameters)) is not None:
                return shape
    if made := getattr(block, "tiny", None) or getattr(block, "trained", None):
        return _tiny(made, size) if hasattr(made, "hidden_size") else shape_of(facts, f"models/{made.model}")
    return _usual(parameters) if parameters else None


def _folders(facts: Facts, place: str, shelf: str, base: str, block: Any) -> Iterator[Path]:
    """Yield the folders that may hold the configuration of a model or of the base that an adapter is merged into."""
    yield from (Path(paths.ROOT, place), Path(paths.ROOT, shelf, base))
    if getattr(block, "local", None):
        yield Path(local_path(facts.plan.config, block.local))
    if getattr(block, "hub", None):
        with suppress(DataError, OSError):
            yield Path(read_json(paths.asset(model_asset(block.hub).name))["folder"])


def _configured(config: Mapping[str, Any], parameters: float | None) -> Shape | None:
    """Return the shape in a `config.json`, if it has one; without `parameters`, those of a dense decoder of its shape.

    The embeddings count once if they are tied, as they are by default.
    """
    config = config.get("text_config", config)
    if "hidden_size" not in config or "num_hidden_layers" not in config:
        return None
    width = int(config["hidden_size"])
    heads = int(config.get("num_attention_heads") or 1)
    keys = int(config.get("num_key_value_heads") or heads) * int(config.get("head_dim") or width // heads)
    inner = int(config.get("intermediate_size") or config.get("ffn_hidden_size") or 4 * width)
    context = int(config.get("max_position_embeddings") or _CONTEXT)
    vocabulary, blocks = int(config.get("vocab_size") or _VOCABULARY), int(config["num_hidden_layers"])
    of_block = 2 * width**2 + 2 * width * keys + 3 * width * inner
    embedded = (1 if config.get("tie_word_embeddings", True) else 2) * vocabulary * width
    return Shape(parameters or blocks * of_block + embedded, blocks, width, inner, keys, vocabulary, context)


def _tiny(tiny: Any, parameters: float) -> Shape:
    width = tiny.hidden_size
    return Shape(parameters, tiny.n_layers, width, 4 * width, width, tiny.vocab_size, tiny.context)


def _usual(parameters: float) -> Shape:
    width = round(math.sqrt(parameters / (12 * _BLOCKS)))
    return Shape(parameters, _BLOCKS, width, 4 * width, width, _VOCABULARY, _CONTEXT)
