"""Extraction of activations from the small policy's prompts, in two shards and chunks of three prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rebend.config.decoding import Decoding
from rebend.config.value_models import ActivationsBlock
from rebend.io.files import write_parquet
from rebend.io.schemas import PROMPTS
from rebend.models.loading import Policy
from rebend.recontrol.value_model.activation_store import MANIFEST, RESPONSES_FILE, Activations
from rebend.recontrol.value_model.extraction import extract_activations
from rebend.recontrol.value_model.gathering import ShardFiles, gather_activations
from tests.helpers.small_policy import prompt_rows

SETTINGS = ActivationsBlock(
    dataset="d",
    samples_per_prompt=3,
    shards=2,
    prompts_per_chunk=3,
    decoding=Decoding(max_new_tokens=20, temperature=1.0, batch_size=3),
)


def shard_files(folder: Path, shard: int, shards: int) -> ShardFiles:
    """Return the files of a shard."""
    names = (f"{kind}-{shard:05d}-of-{shards:05d}.parquet" for kind in ("states", "responses"))
    return ShardFiles(*(folder / "out" / name for name in names))


def extract_shard(policy: Policy, folder: Path, shard: int, settings: ActivationsBlock = SETTINGS) -> dict[str, int]:
    """Write the prompts, and one shard of their activations; return its counts."""
    folder.mkdir(exist_ok=True)
    prompts = folder / "prompts.parquet"
    write_parquet(prompts, pa.Table.from_pylist(prompt_rows(), PROMPTS))
    files = shard_files(folder, shard, settings.shards)
    return extract_activations(policy, prompts, settings, shard, files, folder / f"parts{shard}")


def gather(folder: Path, settings: ActivationsBlock = SETTINGS) -> dict[str, Any]:
    """Gather all shards; return the counts."""
    shards = [shard_files(folder, shard, settings.shards) for shard in range(settings.shards)]
    return gather_activations(shards, folder / "out" / MANIFEST, folder / "out" / RESPONSES_FILE, settings)


def extract(policy: Policy, folder: Path, settings: ActivationsBlock = SETTINGS) -> Activations:
    """Extract and gather all shards."""
    for shard in range(settings.shards):
        extract_shard(policy, folder, shard, settings)
    gather(folder, settings)
    return Activations(folder / "out")


def all_rows(activations: Activations) -> pa.Table:
    """Return the rows of all shards, without metadata."""
    tables = [pq.read_table(activations.directory / shard["file"]) for shard in activations.manifest["shards"]]
    return pa.concat_tables([table.replace_schema_metadata() for table in tables])


def by_response(activations: Activations) -> dict[str, torch.Tensor]:
    """Return the states of each response, that of its end token included."""
    groups = [activations.read(number) for number in activations.groups()]
    rows = [zip(group.response_ids, group.states.split(group.lengths), strict=True) for group in groups]
    return {name: states for group in rows for name, states in group}
