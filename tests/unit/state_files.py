"""Activations folders made from given states, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rebend.shards import ACTIVATION_RESPONSES, MANIFEST, RESPONSES_FILE, ShardWriter, file_digest, state_schema
from rebend.storage import write_json, write_parquet


def write_activations(
    folder: Path, states: Mapping[str, torch.Tensor], shards: int = 1, dtype: torch.dtype = torch.float16
) -> Path:
    """Write responses with these states [T, D], keyed by response id, spread over shards."""
    folder.mkdir(parents=True)
    width = next(iter(states.values())).shape[1]
    names = list(states)
    entries = []
    for number in range(shards):
        path = folder / f"states-{number:05d}.parquet"
        writer = ShardWriter(path, state_schema(width, dtype, {"fingerprint": "abc", "layer": "final"}), dtype)
        for name in names[number * len(names) // shards : (number + 1) * len(names) // shards]:
            writer.add(name, list(range(len(states[name]))), states[name])
        writer.close()
        entries.append(entry(path))
    rows = [
        {"response_id": n, "row_id": n.rsplit("/", 1)[0], "response": "x", "n_tokens": len(s), "finish": "eos"}
        for n, s in states.items()
    ]
    write_parquet(folder / RESPONSES_FILE, pa.Table.from_pylist(rows, ACTIVATION_RESPONSES))
    facts = {"fingerprint": "abc", "layer": "final", "hidden_size": width, "dtype": str(dtype).removeprefix("torch.")}
    write_json(folder / MANIFEST, {**facts, "shards": entries, "responses": entry(folder / RESPONSES_FILE)})
    return folder


def entry(path: Path) -> dict:
    """Return a file's line in the manifest."""
    metadata = pq.read_metadata(path)
    return {
        "file": path.name,
        "rows": metadata.num_rows,
        "groups": metadata.num_row_groups,
        "sha256": file_digest(path),
    }
