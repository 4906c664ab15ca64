"""Join the shards of an activations folder: a manifest of all shards, and all responses in one file.

It imports no decoding code, so a change of decoding alone does not gather the shards again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rebend.config.value_models import ActivationsBlock
from rebend.errors import DataError
from rebend.io.files import whole_file, write_json
from rebend.recontrol.value_model.activation_store import ACTIVATION_RESPONSES, RUN_AGAIN, entry_of

LEFT_OUT, NOT_DRAWN = b"left_out", b"not_drawn"  # counts of prompts in a shard's metadata


@dataclass(frozen=True)
class ShardFiles:
    """The two files of a shard or a chunk."""

    states: str | Path
    responses: str | Path


def gather_activations(
    shards: Sequence[ShardFiles], manifest: str | Path, responses: str | Path, settings: ActivationsBlock
) -> dict[str, Any]:
    """Write the manifest of the finished shards, and all responses in one file; return counts for the run record.

    Files of another number of shards, left after a change of that setting, are deleted: a glob over the folder must
    find each token once. Raises `DataError` if a shard cannot be read or no prompt is left.
    """
    entries = [entry_of(shard.states) for shard in shards]
    schemas = [pq.read_schema(shard.states).metadata for shard in shards]
    facts = {key.decode(): value.decode() for key, value in schemas[0].items() if key != NOT_DRAWN}
    left_out = sum(int(pq.read_schema(shard.responses).metadata[LEFT_OUT]) for shard in shards)
    with whole_file(responses) as path, pq.ParquetWriter(path, ACTIVATION_RESPONSES, compression="zstd") as writer:
        n_responses = sum(append_row_groups(writer, shard.responses) for shard in shards)
    if not n_responses:
        raise DataError(
            f"all {left_out} prompts are longer than {settings.max_prompt_tokens} tokens, or leave no room for a "
            "response in the model's context; none is left"
        )
    width = int(facts.pop("shape").strip("[]"))
    bytes_stored = 2 * width * sum(entry["rows"] for entry in entries) if settings.states == "stored" else 0
    counts = {
        "left_out": left_out,
        "not_drawn": sum(int(metadata[NOT_DRAWN]) for metadata in schemas),
        "state_bytes": bytes_stored,
    }
    write_json(
        manifest,
        {
            **facts,
            "hidden_size": width,
            "states": settings.states,
            "shards": entries,
            "responses": entry_of(responses),
            **counts,
        },
    )
    _remove_others(Path(manifest).parent, shards)
    tokens = sum(entry["rows"] for entry in entries)
    return {"responses": n_responses, "tokens": tokens, "shards": len(shards), **counts}


def append_row_groups(writer: pq.ParquetWriter, path: str | Path) -> int:
    """Copy the row groups of a file unchanged; return its number of rows."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False).replace_schema_metadata(writer.schema.metadata)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            return file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and {RUN_AGAIN}") from error


def _remove_others(folder: Path, shards: Sequence[ShardFiles]) -> None:
    """Delete the shards of another number of shards, and their records."""
    names = {Path(path).stem for shard in shards for path in (shard.states, shard.responses)}
    for path in [*folder.glob("states-*-of-*"), *folder.glob("responses-*-of-*")]:
        if path.name.partition(".")[0] not in names:  # the record of `x.parquet` is `x.run.json`
            path.unlink()
