"""Activations folders made from given states, for tests of their readers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa
import torch

from rebend.io.files import write_json, write_parquet
from rebend.recontrol.value_model.activation_store import (
    ACTIVATION_RESPONSES,
    MANIFEST,
    RESPONSES_FILE,
    ShardWriter,
    entry_of,
    state_schema,
)


def write_activations(
    folder: Path,
    states: Mapping[str, torch.Tensor],
    shards: int = 1,
    dtype: torch.dtype = torch.float16,
    chunk: int | None = None,
    ended: Collection[str] = (),
) -> Path:
    """Write responses with these states [T, D], keyed by response id, spread over shards.

    The last state of the responses in `ended` is that of their end token. With `chunk`, a row group ends after that
    many responses and a shard has whole chunks, as extraction writes them.
    """
    folder.mkdir(parents=True)
    width = next(iter(states.values())).shape[1]
    names = list(states)
    size = chunk or max(1, -(-len(names) // shards))
    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    entries = []
    for number in range(shards):
        path = folder / f"states-{number:05d}-of-{shards:05d}.parquet"
        writer = ShardWriter(path, state_schema(width, dtype, {"fingerprint": "abc", "layer": "final"}), dtype)
        for names_of_chunk in chunks[number * len(chunks) // shards : (number + 1) * len(chunks) // shards]:
            for name in names_of_chunk:
                writer.add(name, list(range(len(states[name]))), states[name], ended=name in ended)
            writer.close_group()
        writer.close()
        entries.append(entry_of(path))
    rows = [
        {
            "response_id": n,
            "row_id": n.rsplit("/", 1)[0],
            "response": "x",
            "n_tokens": len(s) - (n in ended),
            "finish": "eos",
        }
        for n, s in states.items()
    ]
    write_parquet(folder / RESPONSES_FILE, pa.Table.from_pylist(rows, ACTIVATION_RESPONSES))
    facts = {"fingerprint": "abc", "layer": "final", "hidden_size": width, "dtype": str(dtype).removeprefix("torch.")}
    manifest = {**facts, "states": "stored", "shards": entries, "responses": entry_of(folder / RESPONSES_FILE)}
    write_json(folder / MANIFEST, manifest)
    return folder
