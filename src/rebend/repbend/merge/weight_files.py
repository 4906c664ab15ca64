"""Weights on disk, one tensor at a time: read from the files of a checkpoint, write as safetensors.

Libraries that load or save a model hold the whole model. Here each tensor is read, written and released, so changing a
checkpoint needs the memory of its largest tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rebend.errors import ModelError
from rebend.io.files import write_json
from rebend.models.loading import weight_names

INDEX_FILE = "model.safetensors.index.json"
# The names that the safetensors format gives to types.
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _TYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: name, file, type and shape."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """Return the tensor, on the CPU.

        The file is opened for each tensor: an open file would keep all tensors read from it in memory.
        """
        if self.file.suffix == ".bin":
            return torch.load(self.file, map_location="cpu", mmap=True, weights_only=True)[self.name]
        with safe_open(self.file, "pt") as stream:
            return stream.get_tensor(self.name)


def stored_tensors(path: str | Path) -> list[StoredTensor]:
    """Return the tensors of a checkpoint folder in the order of its weight files; other files are ignored.

    Raises `ModelError` for a file that cannot be read, and for types of quantised weights.
    """
    return [tensor for name in weight_names(Path(path)) for tensor in _tensors_in(Path(path) / name)]


def main_dtype(tensors: Sequence[StoredTensor]) -> torch.dtype:
    """Return the floating type of most entries. Raises `ModelError` if there is none."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors:
        if tensor.dtype.is_floating_point:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    if not counts:
        raise ModelError("the checkpoint holds no weights of a floating type")
    return max(counts, key=lambda dtype: counts[dtype])


def write_weights(
    folder: Path,
    tensors: Sequence[StoredTensor],
    dtype_of: Callable[[StoredTensor], torch.dtype],
    read: Callable[[StoredTensor], Tensor],
) -> None:
    """Write tensors as safetensors to `folder`, one file for each file of the source, with the same tensors.

    A file starts with a header of offsets, which needs only types (`dtype_of`) and the stored shapes. Then `read` is
    called for one tensor at a time; its result must have that type and shape, else `ModelError` is raised. Several
    files get an index.
    """
    sources = list(dict.fromkeys(tensor.file for tensor in tensors))
    names = _file_names(len(sources))
    for source, name in zip(sources, names, strict=True):
        _write_file(folder / name, [tensor for tensor in tensors if tensor.file == source], dtype_of, read)
    if len(names) > 1:
        file_of = dict(zip(sources, names, strict=True))
        total = sum(tensor.count * dtype_of(tensor).itemsize for tensor in tensors)
        weight_map = {tensor.name: file_of[tensor.file] for tensor in tensors}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _write_file(
    path: Path,
    tensors: Sequence[StoredTensor],
    dtype_of: Callable[[StoredTensor], torch.dtype],
    read: Callable[[StoredTensor], Tensor],
) -> None:
    # Wide types first, as safetensors does, so that each tensor starts at a multiple of its width.
    ordered = sorted(tensors, key=lambda tensor: (-dtype_of(tensor).itemsize, tensor.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.count * dtype_of(tensor).itemsize
        code = _CODES[dtype_of(tensor)]
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            value = read(tensor)
            if value.dtype != dtype_of(tensor) or tuple(value.shape) != tensor.shape:
                raise ModelError(
                    f"{tensor.name}: is {value.dtype} {tuple(value.shape)}, not {dtype_of(tensor)} {tensor.shape}"
                )
            stream.write(value.contiguous().flatten().view(torch.uint8).numpy().data)


def _tensors_in(file: Path) -> list[StoredTensor]:
    try:
        if file.suffix == ".bin":
            loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            return [StoredTensor(name, file, value.dtype, tuple(value.shape)) for name, value in loaded.items()]
        with safe_open(file, "pt") as stream:
            slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
            return [
                StoredTensor(name, file, _type(file, name, part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            ]
    except ModelError:
        raise
    except Exception as error:  # safetensors and pickle raise different exceptions
        raise ModelError(f"{file}: not a readable file of weights ({error})") from error


def _type(file: Path, name: str, code: str) -> torch.dtype:
    if code not in _TYPES:
        raise ModelError(
            f"{file}: '{name}' is stored as {code}; a checkpoint that is quantised in its files cannot be changed. "
            f"Types that are read: {', '.join(_TYPES)}"
        )
    return _TYPES[code]
