"""Hidden states on disk: Parquet shards that map into torch, and a manifest that vouches for them.

A shard has one row per generated token: `response_id`, `position` (0 is the first token), `token_id` and
`state`, one fixed-size binary value that holds the D numbers (plain, uncompressed, no dictionary). Type,
width, layer, model fingerprint and revision are in the schema's metadata. The tokens of a response are
neighbours and lie in one row group, so that a row group can be used alone. To read without rebend:

    dtype = file.schema_arrow.metadata[b"dtype"]                       # float16 or bfloat16
    numpy.frombuffer(b"".join(column), dtype).reshape(len(column), D)  # float16; view bfloat16 by torch
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rebend.errors import DataError
from rebend.storage import read_json, read_parquet

MANIFEST = "manifest.json"
RESPONSES_FILE = "responses.parquet"
CACHE_BYTES = 2 * 1024**3
ROWS_PER_GROUP = 4096  # a row group is closed at the first response that fills it

ACTIVATION_RESPONSES = pa.schema(
    [
        ("response_id", pa.string()),  # "{row_id}/{sample}"
        ("row_id", pa.string()),
        ("response", pa.string()),
        ("n_tokens", pa.int32()),
        ("finish", pa.string()),  # as in `rebend.schemas.RESPONSES`
    ]
)


def state_schema(hidden_size: int, dtype: torch.dtype, metadata: Mapping[str, str]) -> pa.Schema:
    """Return the schema of a shard for states of `hidden_size` numbers of 16-bit type `dtype`."""
    facts = {"dtype": str(dtype).removeprefix("torch."), "shape": str([hidden_size]), **metadata}
    return pa.schema(
        [
            pa.field("response_id", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("token_id", pa.int32(), nullable=False),
            pa.field("state", pa.binary(hidden_size * dtype.itemsize), nullable=False),
        ],
        metadata=facts,
    )


class ShardWriter:
    """Writes responses one after the other; holds one row group in memory."""

    def __init__(self, path: Path, schema: pa.Schema, dtype: torch.dtype) -> None:
        self.schema, self.dtype = schema, dtype
        self.waiting: list[pa.Table] = []
        self.rows = 0
        self.writer = pq.ParquetWriter(
            path, schema, compression="none", use_dictionary=["response_id"], write_statistics=False
        )

    def add(self, response_id: str, token_ids: Sequence[int], states: torch.Tensor) -> None:
        """Add the T tokens of a response with their states [T, D]; a number too large for the type is an error."""
        stored = states.to(self.dtype)
        if not torch.isfinite(stored).all():
            raise DataError(
                f"response '{response_id}': a hidden state is not finite as {self.dtype}; "
                "run the model in bfloat16, whose range is that of float32"
            )
        n = len(token_ids)
        raw = stored.contiguous().view(torch.uint8).numpy()
        column = pa.Array.from_buffers(self.schema.field("state").type, n, [None, pa.py_buffer(raw)])
        columns = [pa.array([response_id] * n), pa.array(range(n), pa.int32()), pa.array(token_ids, pa.int32())]
        self.waiting.append(pa.Table.from_arrays([*columns, column], schema=self.schema))
        self.rows += n
        if sum(table.num_rows for table in self.waiting) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> int:
        """Finish the file; return its number of rows."""
        self._flush()
        self.writer.close()
        return self.rows

    def _flush(self) -> None:
        rows = sum(table.num_rows for table in self.waiting)
        if rows:
            self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks(), row_group_size=rows)
        self.waiting = []


@dataclass(frozen=True)
class Group:
    """The responses of one row group: response i has the next `lengths[i]` rows of `states` [N, D]."""

    response_ids: list[str]
    lengths: list[int]
    states: torch.Tensor  # read-only, in the stored type

    def responses(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each response's id and states [T, D]."""
        yield from zip(self.response_ids, self.states.split(self.lengths), strict=True)


class Activations:
    """A finished activations folder. Opening it checks that all files of the manifest are there.

    A shard's digest is checked when the shard is first read. `cache_bytes`: groups are kept in memory as
    long as all states of the folder fit into so many bytes; it changes nothing but the speed.
    """

    def __init__(self, directory: str | Path, cache_bytes: int = CACHE_BYTES) -> None:
        self.directory = Path(directory)
        self.manifest: dict[str, Any] = read_json(self.directory / MANIFEST)
        self.hidden_size: int = self.manifest["hidden_size"]
        self.fingerprint: str = self.manifest["fingerprint"]
        self.dtype: torch.dtype = getattr(torch, self.manifest["dtype"])
        self._verified: set[str] = set()
        self._cache: dict[tuple[int, int], Group] = {}
        total = sum(shard["rows"] for shard in self.manifest["shards"]) * self.hidden_size * self.dtype.itemsize
        self._keep = total <= cache_bytes
        for entry in [*self.manifest["shards"], self.manifest["responses"]]:
            if not (self.directory / entry["file"]).exists():
                raise DataError(f"{self.directory / entry['file']}: is missing; {_REMEDY}")

    def responses(self) -> pa.Table:
        """Return the responses (schema ACTIVATION_RESPONSES)."""
        self._verify(self.manifest["responses"])
        return read_parquet(self.directory / RESPONSES_FILE, ACTIVATION_RESPONSES)

    def groups(self) -> list[tuple[int, int]]:
        """Return the keys of all row groups: (shard, group)."""
        return [(s, g) for s, shard in enumerate(self.manifest["shards"]) for g in range(shard["groups"])]

    def read(self, key: tuple[int, int]) -> Group:
        """Return one row group; its states share the memory that Parquet was read into."""
        if key in self._cache:
            return self._cache[key]
        shard, number = key
        entry = self.manifest["shards"][shard]
        self._verify(entry)
        path = self.directory / entry["file"]
        try:
            with pq.ParquetFile(path, memory_map=True) as file:
                table = file.read_row_group(number, columns=["response_id", "position", "state"], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: row group {number} cannot be read ({error}); {_REMEDY}") from error
        group = self._group(table)
        if self._keep:
            self._cache[key] = group
        return group

    def verify(self) -> None:
        """Compare every file with the manifest; raises `DataError` that names the first damaged one."""
        for entry in [*self.manifest["shards"], self.manifest["responses"]]:
            self._verify(entry)

    def _verify(self, entry: Mapping[str, Any]) -> None:
        if entry["file"] in self._verified:
            return
        path = self.directory / entry["file"]
        if file_digest(path) != entry["sha256"]:
            raise DataError(f"{path}: is damaged (its digest is not the manifest's); {_REMEDY}")
        self._verified.add(entry["file"])

    def _group(self, table: pa.Table) -> Group:
        starts = [i for i, position in enumerate(table["position"].to_pylist()) if position == 0]
        ids = table["response_id"].take(starts).to_pylist()
        ends = [*starts[1:], table.num_rows]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        chunks = [_as_tensor(chunk, self.dtype, self.hidden_size) for chunk in table["state"].chunks]
        return Group(ids, lengths, chunks[0] if len(chunks) == 1 else torch.cat(chunks))


_REMEDY = "delete the folder's record and run extract_activations again"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _as_tensor(array: pa.Array, dtype: torch.dtype, width: int) -> torch.Tensor:
    """View a fixed-size binary array as a tensor [N, width] without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nobody writes to it
        flat = torch.frombuffer(
            array.buffers()[1], dtype=dtype, count=len(array) * width, offset=array.offset * width * dtype.itemsize
        )
    return flat.view(len(array), width)
