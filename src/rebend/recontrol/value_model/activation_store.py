"""Hidden states on disk: Parquet shards that torch reads without a copy, and a manifest with their digests.

A shard has one row per token that the model chose: `response_id`, `position` (0 is the first token), `token_id`, `ends`
and `state`, a fixed-size binary value of D numbers (uncompressed, no dictionary), from which the token was sampled.
`ends` marks the last row of a response that ended by itself: its token, an end token or the first one of a new turn, is
not part of the response. The schema's metadata has type, shape, layer, model fingerprint and revision. The tokens of a
response are adjacent rows of one row group. With `states: streamed` the column `prompt_ids`, filled at position 0 only,
replaces `state`. To read with pandas, polars or DuckDB, without rebend:

    column = pandas.read_parquet(path)["state"]                                  # one bytes object per token
    states = numpy.frombuffer(b"".join(column), "float16").reshape(len(column), -1)  # [N, D]

The type is `pyarrow.parquet.read_schema(path).metadata[b"dtype"]`; numpy has no bfloat16, torch has:
`torch.frombuffer(bytearray(b"".join(column)), dtype=torch.bfloat16)`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rebend.errors import DataError
from rebend.io.checksums import file_digest
from rebend.io.files import read_json, read_parquet

MANIFEST = "manifest.json"
RESPONSES_FILE = "responses.parquet"
ROWS_PER_GROUP = 4096  # a row group is closed at the first response that fills it
_OPEN_FILES = 32
RUN_AGAIN = "run again (only this file is made again)"

ACTIVATION_RESPONSES = pa.schema(
    [
        ("response_id", pa.string()),  # "{row_id}/{sample}"
        ("row_id", pa.string()),
        ("response", pa.string()),
        ("n_tokens", pa.int32()),
        ("finish", pa.string()),  # as in `rebend.io.schemas.RESPONSES`
    ]
)
_TOKENS = (
    pa.field("response_id", pa.string(), nullable=False),
    pa.field("position", pa.int32(), nullable=False),
    pa.field("token_id", pa.int32(), nullable=False),
    pa.field("ends", pa.bool_(), nullable=False),  # the token ends the response and is not part of it
)


def key_of(text: str) -> int:
    """Return the first 64 bits of the SHA-256 of `text`, a short key for the id of a row or a response."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def state_schema(
    hidden_size: int, dtype: torch.dtype, metadata: Mapping[str, str], *, stored: bool = True
) -> pa.Schema:
    """Return the schema of a shard for states of `hidden_size` numbers of 16-bit type `dtype`.

    If the states are not `stored`, the column `prompt_ids` replaces `state`.
    """
    facts = {"dtype": str(dtype).removeprefix("torch."), "shape": str([hidden_size]), **metadata}
    state = pa.field("state", pa.binary(hidden_size * dtype.itemsize), nullable=False)
    return pa.schema([*_TOKENS, state if stored else pa.field("prompt_ids", pa.list_(pa.int32()))], metadata=facts)


class ShardWriter:
    """Writes responses one after the other, with one row group in memory."""

    def __init__(self, path: Path, schema: pa.Schema, dtype: torch.dtype) -> None:
        self.schema, self.dtype = schema, dtype
        self.waiting: list[pa.Table] = []
        self.rows = 0
        self.writer = pq.ParquetWriter(
            path, schema, compression="none", use_dictionary=["response_id"], write_statistics=False
        )

    def add(
        self,
        response_id: str,
        token_ids: Sequence[int],
        states: torch.Tensor | None,
        prompt_ids: Sequence[int] = (),
        *,
        ended: bool = False,
    ) -> None:
        """Add N chosen tokens of a response with their states [N, D], or with `prompt_ids` if states are not stored.

        With `ended` the last token ended the response. Raises `DataError` if a state is not finite in the stored type.
        """
        n = len(token_ids)
        columns = [pa.array([response_id] * n), pa.array(range(n), pa.int32()), pa.array(token_ids, pa.int32())]
        columns.append(pa.array([False] * (n - 1) + [ended], pa.bool_()))
        if states is None:
            columns.append(pa.array([prompt_ids, *[None] * (n - 1)], pa.list_(pa.int32())))
        else:
            columns.append(self._column(response_id, states))
        self.waiting.append(pa.Table.from_arrays(columns, schema=self.schema))
        self.rows += n
        if sum(table.num_rows for table in self.waiting) >= ROWS_PER_GROUP:
            self.close_group()

    def _column(self, response_id: str, states: torch.Tensor) -> pa.Array:
        """Return states [T, D] as fixed-size binary."""
        stored = states.to(self.dtype)
        if not torch.isfinite(stored).all():
            raise DataError(
                f"response '{response_id}': a hidden state is not finite as {self.dtype}; "
                "run the model in bfloat16, whose range is that of float32"
            )
        raw = stored.contiguous().view(torch.uint8).numpy()
        return pa.Array.from_buffers(self.schema.field("state").type, len(states), [None, pa.py_buffer(raw)])

    def close_group(self) -> None:
        """End the row group here, so that the rows before do not affect where later groups end."""
        rows = sum(table.num_rows for table in self.waiting)
        if rows:
            self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks(), row_group_size=rows)
        self.waiting = []

    def close(self) -> int:
        """Close the file; return its number of rows."""
        self.close_group()
        self.writer.close()
        return self.rows


@dataclass(frozen=True)
class Group:
    """The responses of one row group: response i has the next `lengths[i]` rows of `states` [N, D]."""

    response_ids: list[str]
    lengths: list[int]
    ended: list[bool]  # whether the last row of a response is the state of its end token
    states: torch.Tensor  # read-only, in the stored type

    def responses(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each response's id and states [T, D], without that of the end token: none for an empty response."""
        for name, states, ended in zip(self.response_ids, self.states.split(self.lengths), self.ended, strict=True):
            yield name, states[: len(states) - ended]

    def after_prompts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each response's id and the state [D] of the last prompt token, which chose the first token."""
        for name, states in zip(self.response_ids, self.states.split(self.lengths), strict=True):
            yield name, states[0]


@dataclass(frozen=True)
class Index:
    """Ids and lengths of all responses, 13 bytes each. Group g holds responses `first[g]` to `first[g + 1] - 1`."""

    keys: np.ndarray  # [N] uint64, `key_of` of the response ids, in the order of the shards
    lengths: np.ndarray  # [N] int32, rows: tokens T, and 1 for the end token
    ended: np.ndarray  # [N] bool, whether the last row is the state of the end token
    first: np.ndarray  # [G + 1] int64


class Activations:
    """A finished activations folder.

    Row groups are read from disk each time. Their order and contents do not depend on the number of shards. A file's
    digest is checked at its first read. Raises `DataError` if a file of the manifest is missing.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest: dict[str, Any] = read_json(self.directory / MANIFEST)
        self.hidden_size: int = self.manifest["hidden_size"]
        self.fingerprint: str = self.manifest["fingerprint"]
        self.layer: str = self.manifest["layer"]
        self.dtype: torch.dtype = getattr(torch, self.manifest["dtype"])
        shards = enumerate(self.manifest["shards"])
        self._group_of_shard = [(number, group) for number, shard in shards for group in range(shard["groups"])]
        self._verified: set[str] = set()
        self._open: dict[int, pq.ParquetFile] = {}
        for entry in [*self.manifest["shards"], self.manifest["responses"]]:
            if not (self.directory / entry["file"]).exists():
                raise DataError(f"{self.directory / entry['file']}: is missing; {RUN_AGAIN}")

    @property
    def responses_file(self) -> Path:
        """The file of all responses (schema ACTIVATION_RESPONSES). Its digest is checked first."""
        self._verify(self.manifest["responses"])
        return self.directory / self.manifest["responses"]["file"]

    def responses(self) -> pa.Table:
        """Return all responses at once (schema ACTIVATION_RESPONSES)."""
        return read_parquet(self.responses_file, ACTIVATION_RESPONSES)

    def groups(self) -> range:
        """Return the numbers of all row groups."""
        return range(len(self._group_of_shard))

    def read(self, group: int) -> Group:
        """Return one row group with its responses."""
        names, lengths, ended = self.names(group)
        return Group(names, lengths.tolist(), ended.tolist(), self.states(group))

    def names(self, group: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the ids of a row group's responses, the number of rows of each, and whether its last row ends it."""
        table = self.table(group, ["response_id", "position", "ends"])
        starts = np.flatnonzero(table["position"].to_numpy() == 0)
        lengths = np.diff([*starts, table.num_rows]).astype(np.int32)
        return table["response_id"].take(starts).to_pylist(), lengths, table["ends"].to_numpy()[starts + lengths - 1]

    def index(self) -> Index:
        """Return the index of all responses."""
        keys, lengths, ended = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], [np.zeros(0, np.bool_)]
        for group in self.groups():
            names, rows, ends = self.names(group)
            keys.append(np.array([key_of(name) for name in names], np.uint64))
            lengths.append(rows)
            ended.append(ends)
        first = np.cumsum([0, *map(len, keys[1:])])
        return Index(np.concatenate(keys), np.concatenate(lengths), np.concatenate(ended), first)

    def states(self, group: int) -> torch.Tensor:
        """Return the states [rows, D] of a row group in the stored type, read-only: they share Parquet's memory."""
        chunks = [
            _as_tensor(chunk, self.dtype, self.hidden_size) for chunk in self.table(group, ["state"])["state"].chunks
        ]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def table(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Return columns of a row group. Raises `DataError` if its shard is damaged."""
        shard, number = self._group_of_shard[group]
        entry = self.manifest["shards"][shard]
        self._verify(entry)
        path = self.directory / entry["file"]
        try:
            if shard not in self._open:
                if len(self._open) >= _OPEN_FILES:
                    self._open.pop(next(iter(self._open))).close(force=True)
                # not mapped: pages of a mapped file would count as this process's memory, and grow with the file
                self._open[shard] = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
            return self._open[shard].read_row_group(number, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: row group {number} cannot be read ({error}); delete it and {RUN_AGAIN}"
            ) from error

    def verify(self) -> None:
        """Compare every file with the manifest. Raises `DataError` at the first damaged file."""
        for entry in [*self.manifest["shards"], self.manifest["responses"]]:
            self._verify(entry)

    def _verify(self, entry: Mapping[str, Any]) -> None:
        if entry["file"] in self._verified:
            return
        path = self.directory / entry["file"]
        if file_digest(path) != entry["sha256"]:
            raise DataError(f"{path}: is damaged (its digest is not the manifest's); delete it and {RUN_AGAIN}")
        self._verified.add(entry["file"])


def entry_of(path: str | Path) -> dict[str, Any]:
    """Return a file's entry in the manifest: name, rows, row groups, SHA-256.

    Raises `DataError` if it is not a Parquet file.
    """
    path = Path(path)
    try:
        facts = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and {RUN_AGAIN}") from error
    return {"file": path.name, "rows": facts.num_rows, "groups": facts.num_row_groups, "sha256": file_digest(path)}


def _as_tensor(array: pa.Array, dtype: torch.dtype, width: int) -> torch.Tensor:
    """View a fixed-size binary array as a tensor [N, width] without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # it is only read
        flat = torch.frombuffer(
            array.buffers()[1], dtype=dtype, count=len(array) * width, offset=array.offset * width * dtype.itemsize
        )
    return flat.view(len(array), width)
