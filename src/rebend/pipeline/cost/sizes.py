"""How large things are before a job runs: parameters of models, widths, rows of data sets.

Each is read where it can be (a prepared result, the lock file, a local file, the configuration) and guessed otherwise;
guesses are remembered, so that a plan can say what it rests on.
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

from rebend.config.datasets import DataSource
from rebend.data.asset_lock import read_lock
from rebend.data.assets import model_asset, source_asset
from rebend.io.files import read_json
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages.common import local_path

_PARAMETERS = 7e9  # of a model of which nothing is known
_ENCODER = 1.1e8
_ROWS = 10_000
_EVALUATED = 500  # rows of an evaluation data set
_FILES = {"dataset": 1e8, "url": 1e6}  # bytes of what nobody has fetched yet
_ROW_BYTES = {".gz": 400, ".parquet": 500}  # of a file of rows, by its ending; others 1,000
_BLOCKS = 32


class Facts:
    """Sizes in one study."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lock = read_lock(paths.ASSET_LOCK)
        self.guesses: dict[str, str] = {}  # what -> how large it was taken to be
        self.parameters = cache(self._parameters)
        self.rows = cache(self._rows)

    def model(self, inputs: Sequence[str], shelf: str = "models") -> float:
        """Parameters of the first model of a shelf among the inputs of a job."""
        prefix = f"{paths.ROOT}/{shelf}/"
        place = next((name.removeprefix(f"{paths.ROOT}/") for name in inputs if name.startswith(prefix)), None)
        return self.parameters("/".join(place.split("/")[:2])) if place else _PARAMETERS

    def data(self, inputs: Sequence[str]) -> int:
        """Rows of the first data set among the inputs of a job."""
        found = (re.fullmatch(rf"{paths.ROOT}/data/(\w+)\.parquet", name) for name in inputs)
        name = next((match[1] for match in found if match), None)
        return self.rows(name) if name else _ROWS

    def width(self, inputs: Sequence[str]) -> int:
        """Hidden size of the first model among the inputs: read, or that of a usual shape of so many parameters."""
        for name in inputs:
            if name.startswith(f"{paths.ROOT}/models/") and (config := Path(name, "config.json")).is_file():
                return int(read_json(config).get("hidden_size", 0)) or 1
        return round(math.sqrt(self.model(inputs) / (12 * _BLOCKS)))

    def sampled_tokens(self, block: Mapping[str, Any], inputs: Sequence[str]) -> float:
        """Response tokens of an activations block, each as long as it may be; a limit of bytes cuts."""
        tokens = self.rows(block["dataset"]) * block["samples_per_prompt"] * block["decoding"]["max_new_tokens"]
        limit = block["max_bytes"]
        return min(tokens, limit / (2 * self.width(inputs))) if limit else tokens

    def asset_bytes(self, name: str, where: str, kind: str) -> float:
        """Bytes of an asset: the lock file's, else two per parameter of a model, else a guess."""
        if entry := self.lock.get(name):
            return float(entry["size"])
        if kind != "model":
            self.guesses[name] = f"{_FILES[kind]:.2g} bytes"
            return _FILES[kind]
        encoders = [getattr(block.hub, "repo", None) for block in self.plan.config["encoders"].values()]
        return 2 * (_named_size(where) or self._guess(name, _ENCODER if where in encoders else _PARAMETERS))

    def _parameters(self, place: str) -> float:
        """Parameters of what lies, or will lie, at `results/<place>`."""
        folder = Path(paths.ROOT, place)
        if counted := _counted(folder):
            return counted
        shelf, name = place.split("/")
        base = paths.base_and_adapter(name)[0]
        block: Any = self.plan.config.catalogue.get(paths.SHELVES.get(shelf, ""), {}).get(base)
        if block is None:
            return self._guess(f"{paths.ROOT}/{place}", _PARAMETERS)
        if getattr(block, "local", None):
            return _counted(Path(local_path(self.plan.config, block.local))) or self._guess(
                f"{paths.ROOT}/{place}", _PARAMETERS
            )
        if getattr(block, "tiny", None):
            return self._tiny(shelf, block)
        if getattr(block, "hub", None):
            return self._of_hub(place, block)
        return _ENCODER if shelf == "encoders" else 0.0  # carried by a package; behind an address

    def _tiny(self, shelf: str, block: Any) -> float:
        if shelf == "reward_models":
            return float(self.parameters(f"models/{block.tiny.model}"))
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

    def _guess(self, what: str, size: float) -> float:
        self.guesses[what] = f"{size:.2g} parameters"
        return size

    def _rows(self, name: str) -> int:
        """Rows of a prepared data set, or an estimate of what it will have."""
        record = Path(paths.record(paths.data(name)))
        if record.is_file() and (told := read_json(record).get("notes", {}).get("rows")):
            return int(told)
        block = self.plan.config["datasets"].get(name)
        if block is None:
            return _ROWS
        if block.source.world is not None:
            return int(min(block.source.world.rows, block.rows or block.source.world.rows))
        limit = block.rows * (2 if block.kind == "safety" else 1) if block.rows else None
        size = self._source_bytes(block.source)
        if size is None:
            guess = _EVALUATED if block.kind == "evaluation" else _ROWS
            if limit is None:
                self.guesses[paths.data(name)] = f"{guess} rows"
            return limit or guess
        found = max(1, size[0] // _ROW_BYTES.get(size[1], 1000))
        return min(found, limit) if limit else found

    def _source_bytes(self, source: DataSource) -> tuple[int, str] | None:
        """Size of the file behind a source, and its ending."""
        if source.local is not None:
            path = Path(local_path(self.plan.config, source.local))
            return (path.stat().st_size, path.suffix) if path.is_file() else None
        asset = source_asset(source)
        entry = self.lock.get(asset.name) if asset else None
        return (entry["size"], Path(next(iter(entry["files"]))).suffix) if entry else None


def _named_size(repo: str) -> float | None:
    """Parameters that the name of a repository tells of: "Llama-3-8B" has 8e9."""
    named = re.search(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", repo)
    return float(named[1]) * 1e9 if named else None


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _counted(folder: Path) -> float | None:
    """Parameters in a model folder's weight files; those that are no safetensors are taken for 16 bits."""
    safe = sorted(folder.glob("*.safetensors"))
    if safe:
        with suppress(ValueError, struct.error):  # a file that is not whole is for others to refuse
            return float(sum(_in_header(file) for file in safe))
    return sum(file.stat().st_size for file in folder.glob("*.bin")) / 2 or None


def _in_header(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
