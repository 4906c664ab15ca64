"""Sizes before a job runs: parameters of models, hidden sizes, rows of data sets.

A size is read from a prepared result, the lock file, a local file or the configuration; otherwise it is guessed.
Guesses are stored, so that the estimate can list them.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from rebend.config.datasets import DataSource, JoinedBlock, SampledChatsBlock, SampledPairsBlock
from rebend.data.asset_lock import read_lock
from rebend.data.assets import model_asset, package_asset, source_asset
from rebend.io.files import read_json
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages.common import local_path

_PARAMETERS = 7e9  # of a model of unknown size
_ENCODER = 1.1e8
_PACKAGED_ENCODER = 2.3e7  # all-MiniLM-L6-v2
_ROWS = 10_000
_EVALUATED = 500  # rows of an evaluation data set
_FILES = {"dataset": 1e8, "package": 1e8, "url": 1e6}  # bytes of an asset that is not fetched yet
_ROW_BYTES = {".gz": 400, ".parquet": 500}  # bytes per row of a file, by its suffix; others 1,000
_BLOCKS = 32
_GGUF_BITS = 4  # per parameter of a GGUF file whose name states no type


class Facts:
    """Sizes of the models and data of one study."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lock = read_lock(paths.ASSET_LOCK)
        self.guesses: dict[str, str] = {}  # name → its guessed size
        self.parameters = cache(self._parameters)
        self.rows = cache(self._rows)

    def share_of_blocks(self, settings: Mapping[str, Any]) -> float:
        """Return the share of a model's blocks that a reward model uses; 1 if the number of blocks is not known."""
        known = getattr(self.plan.config["models"].get(settings.get("model", "")), "n_layers", None)
        return min(1.0, settings["n_blocks"] / known) if known and settings.get("n_blocks") else 1.0

    def model(self, inputs: Sequence[str], shelf: str = "models") -> float:
        """Return the parameters of the first model below `results/<shelf>` among a job's inputs."""
        prefix = f"{paths.ROOT}/{shelf}/"
        place = next((name.removeprefix(f"{paths.ROOT}/") for name in inputs if name.startswith(prefix)), None)
        return self.parameters("/".join(place.split("/")[:2])) if place else _PARAMETERS

    def data(self, inputs: Sequence[str]) -> int:
        """Return the rows of the first data set among a job's inputs."""
        matches = (re.fullmatch(rf"{paths.ROOT}/data/(\w+)\.parquet", name) for name in inputs)
        name = next((match[1] for match in matches if match), None)
        return self.rows(name) if name else _ROWS

    def width(self, inputs: Sequence[str]) -> int:
        """Return the hidden size of the first model among the inputs; without its files, guessed from its size."""
        for name in inputs:
            if name.startswith(f"{paths.ROOT}/models/") and (config := Path(name, "config.json")).is_file():
                return int(read_json(config).get("hidden_size", 0)) or 1
        return round(math.sqrt(self.model(inputs) / (12 * _BLOCKS)))

    def sampled_tokens(self, block: Mapping[str, Any], inputs: Sequence[str]) -> float:
        """Return the response tokens of an activations block, for responses of maximal length, up to `max_bytes`."""
        tokens = self.rows(block["dataset"]) * block["samples_per_prompt"] * block["decoding"]["max_new_tokens"]
        limit = block["max_bytes"]
        return min(tokens, limit / (2 * self.width(inputs))) if limit else tokens

    def asset_bytes(self, name: str, where: str, kind: str) -> float:
        """Return the bytes of an asset: those in the lock file, else two per parameter of a model, else a guess."""
        if entry := self.lock.get(name):
            return float(entry["size"])
        if kind != "model":
            self.guesses[name] = f"{_FILES[kind]:.2g} bytes"
            return _FILES[kind]
        encoders = [getattr(block.hub, "repo", None) for block in self.plan.config["encoders"].values()]
        return 2 * (_named_size(where) or self._guess(name, _ENCODER if where in encoders else _PARAMETERS))

    def _parameters(self, place: str) -> float:
        """Return the parameters of the model at `results/<place>`, whether it is prepared or not."""
        folder = Path(paths.ROOT, place)
        if counted := _counted(folder):
            return counted
        shelf, name = place.split("/")
        base = paths.base_and_adapter(name)[0]
        block: Any = self.plan.config.catalogue.get(paths.SHELVES.get(shelf, ""), {}).get(base)
        if block is None:
            return self._guess(f"{paths.ROOT}/{place}", _PARAMETERS)
        if getattr(block, "local", None):
            counted = _counted(Path(local_path(self.plan.config, block.local)))
            return counted or self._guess(f"{paths.ROOT}/{place}", _PARAMETERS)
        if getattr(block, "tiny", None) or getattr(block, "trained", None):
            return self._tiny(shelf, block)
        if getattr(block, "from_gguf", False):
            return self._of_gguf(place, block)
        if getattr(block, "hub", None):
            return self._of_hub(place, block)
        return _PACKAGED_ENCODER if shelf == "encoders" else 0.0  # inside a package; a model behind an address

    def _tiny(self, shelf: str, block: Any) -> float:
        if shelf == "reward_models":
            return float(self.parameters(f"models/{(block.tiny or block.trained).model}"))
        tiny = block.tiny
        return float(tiny.vocab_size * tiny.hidden_size + 12 * tiny.n_layers * tiny.hidden_size**2)

    def _of_hub(self, place: str, block: Any) -> float:
        if named := _named_size(block.hub.repo):
            return named
        entry = self.lock.get(model_asset(block.hub).name)
        weights = [facts["size"] for name, facts in (entry or {}).get("files", {}).items() if _is_weights(name)]
        if weights:
            return sum(weights) / 2  # stored in 16 bits, as nearly all are
        guess = _ENCODER if place.startswith("encoders/") else _PARAMETERS
        return self._guess(f"{paths.ROOT}/{place}", guess)

    def _of_gguf(self, place: str, block: Any) -> float:
        """Return the parameters that the name of a GGUF file or of its repository states, or its size, else a guess."""
        stored = block.gguf or (block.package or block.hub).file
        more = [block.package.name] if block.package else [block.hub.repo] if block.hub else []
        named = (_named_size(name) for name in (stored, *more))
        known = next((size for size in named if size), None) or self._stored_in_gguf(block)
        return known or self._guess(f"{paths.ROOT}/{place}", _PARAMETERS)

    def _stored_in_gguf(self, block: Any) -> float | None:
        """Return the parameters in a local or fetched GGUF file, by its size and the type in its name (Q4_K_M: 4 bits).

        Scales and types with more bits are counted as parameters, so the number is rather too large.
        """
        if block.gguf is not None:
            file = Path(local_path(self.plan.config, block.gguf))
            files = {file.name: file.stat().st_size} if file.is_file() else {}
        else:
            asset = package_asset(block.package) if block.package else model_asset(block.hub)
            entry = self.lock.get(asset.name) or {}
            files = {name: facts["size"] for name, facts in entry.get("files", {}).items() if name.endswith(".gguf")}
        for name, size in files.items():
            bits = re.search(r"(?:Q|BF|F)(\d+)(?![^\W_])", Path(name).name, re.IGNORECASE)
            return 8 * size / float(bits[1] if bits else _GGUF_BITS)
        return None

    def _guess(self, name: str, size: float) -> float:
        self.guesses[name] = f"{size:.2g} parameters"
        return size

    def _rows(self, name: str) -> int:
        """Return the rows of a prepared data set, or an estimate of them."""
        record = Path(paths.record(paths.data(name)))
        if record.is_file() and (rows := read_json(record).get("notes", {}).get("rows")):
            return int(rows)
        block = self.plan.config["datasets"].get(name)
        if block is None:
            return _ROWS
        if isinstance(block, JoinedBlock):
            return sum(self.rows(part) for part in block.datasets)
        if isinstance(block, SampledPairsBlock):
            return 2 * block.answers_per_prompt * sum(self.rows(prompts) for prompts in block.prompts)
        if isinstance(block, SampledChatsBlock):
            return sum(self.rows(prompts) for prompts in block.prompts)
        if block.source.world is not None:
            return int(min(block.source.world.rows, block.rows or block.source.world.rows))
        limit = block.rows * (2 if block.kind == "safety" else 1) if block.rows else None
        size = self._source_bytes(block.source)
        if size is None:
            guess = _EVALUATED if block.kind == "evaluation" else _ROWS
            if limit is None:
                self.guesses[paths.data(name)] = f"{guess} rows"
            return limit or guess
        estimated = max(1, size[0] // _ROW_BYTES.get(size[1], 1000))
        return min(estimated, limit) if limit else estimated

    def _source_bytes(self, source: DataSource) -> tuple[int, str] | None:
        """Return the size and the suffix of a source's file; None if it is neither local nor fetched."""
        if source.local is not None:
            path = Path(local_path(self.plan.config, source.local))
            return (path.stat().st_size, path.suffix) if path.is_file() else None
        asset = source_asset(source)
        entry = self.lock.get(asset.name) if asset else None
        return (entry["size"], Path(next(iter(entry["files"]))).suffix) if entry else None


def _named_size(repo: str) -> float | None:
    """Return the parameters that the name of a repository states: 8e9 for "Llama-3-8B", 1.35e8 for "SmolLM2-135M"."""
    named = re.search(r"(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z])", repo)
    return float(named[1]) * (1e9 if named[2] in "bB" else 1e6) if named else None


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _counted(folder: Path) -> float | None:
    """Return the parameters in a model folder; `*.bin` files are assumed to have 16 bits per parameter."""
    safe = sorted(folder.glob("*.safetensors"))
    if safe:
        with suppress(ValueError, struct.error):  # an incomplete file; the check of the model reports it
            return float(sum(_parameters_in_header(file) for file in safe))
    return sum(file.stat().st_size for file in folder.glob("*.bin")) / 2 or None


def _parameters_in_header(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
