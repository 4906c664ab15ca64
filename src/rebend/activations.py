"""Responses of a policy, and the final-norm hidden state from which each of their tokens was sampled.

RE-Control's training data (arXiv:2406.05954, section 4). Row t of a response is the state that the LM
head saw when token t was chosen; the token that ends a response, and what follows it, is left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rebend.batches import batches_by_length
from rebend.config.blocks import ActivationsBlock
from rebend.decoding import Request, generate_batch, has_room, make_requests
from rebend.errors import DataError
from rebend.models import Policy
from rebend.progress import progress
from rebend.shards import ACTIVATION_RESPONSES, MANIFEST, RESPONSES_FILE, ShardWriter, file_digest, state_schema
from rebend.storage import read_parquet, whole_directory, whole_file, write_json, write_parquet


@dataclass(frozen=True)
class Plan:
    """Which responses are made, in batches that do not depend on how they are spread over shards."""

    requests: list[Request]  # keyed by response id
    row_ids: list[str]  # of each request
    shards: list[list[list[int]]]  # shard -> batch -> indices into `requests`
    left_out: int  # prompts that are too long


def extract_activations(
    policy: Policy, rows: Sequence[dict[str, Any]], settings: ActivationsBlock, output: str | Path, parts: Path
) -> dict[str, int]:
    """Write the folder `output` (responses, shards, manifest); return counts for the record.

    Finished shards are kept in the folder `parts`, so that a killed run goes on after them; the files are
    the same bytes as those of an undisturbed run.
    """
    plan = make_plan(policy, rows, settings)
    if not plan.requests:
        raise DataError(f"all {len(rows)} prompts are longer than {settings.max_prompt_tokens} tokens; none is left")
    parts.mkdir(parents=True, exist_ok=True)
    for number, batches in enumerate(progress(plan.shards, "extracting shards", total=len(plan.shards))):
        if not (parts / _responses_name(number)).exists():
            _make_shard(policy, plan, batches, settings, parts, number)
    return _gather(policy, plan, output, parts)


def make_plan(policy: Policy, rows: Sequence[dict[str, Any]], settings: ActivationsBlock) -> Plan:
    """Encode the prompts, leave out those that are too long, and lay out batches and shards.

    Batches are made over all responses, sorted by length, and a shard is a run of whole batches (about
    `prompts_per_shard` prompts): the number of shards changes no response and no state.
    """
    encoded = make_requests(policy, [row["messages"] for row in rows])
    kept = [
        (row["row_id"], request)
        for row, request in zip(rows, encoded, strict=True)
        if len(request.prompt_ids) <= settings.max_prompt_tokens and has_room(policy, request, settings.decoding)
    ]
    samples = range(settings.samples_per_prompt)
    requests = [Request(f"{row_id}/{sample}", request.prompt_ids) for row_id, request in kept for sample in samples]
    batches = batches_by_length([len(request.prompt_ids) for request in requests], settings.decoding.batch_size)
    per_shard = max(1, settings.prompts_per_shard * len(samples) // settings.decoding.batch_size)
    shards = [batches[start : start + per_shard] for start in range(0, len(batches), per_shard)]
    return Plan(requests, [row_id for row_id, _ in kept for _ in samples], shards, len(rows) - len(kept))


def _make_shard(
    policy: Policy, plan: Plan, batches: list[list[int]], settings: ActivationsBlock, parts: Path, number: int
) -> None:
    """Decode the batches of one shard, streaming their states to disk; its responses are written last."""
    dtype = stored_dtype(policy)
    schema = state_schema(policy.hidden_size, dtype, _facts(policy))
    made: list[tuple[str, str, str, int, str]] = []
    with whole_file(parts / _shard_name(number)) as path:
        writer = ShardWriter(path, schema, dtype)
        try:
            for batch in progress(batches, f"shard {number}", total=len(batches)):
                requests = [plan.requests[i] for i in batch]
                responses = generate_batch(policy, requests, settings.decoding, keep_states=True)
                for i, request, response in zip(batch, requests, responses, strict=True):
                    n = len(response.token_ids)
                    made.append((request.key, plan.row_ids[i], response.text, n, response.finish))
                    if n and response.states is not None:
                        writer.add(request.key, response.token_ids, response.states)
        finally:
            writer.close()
    table = pa.Table.from_pylist(
        [dict(zip(ACTIVATION_RESPONSES.names, row, strict=True)) for row in made], ACTIVATION_RESPONSES
    )
    write_parquet(parts / _responses_name(number), table)


def _gather(policy: Policy, plan: Plan, output: str | Path, parts: Path) -> dict[str, int]:
    """Put the shards, all responses in the order of the prompts, and the manifest into `output`."""
    numbers = range(len(plan.shards))
    table = pa.concat_tables([read_parquet(parts / _responses_name(n), ACTIVATION_RESPONSES) for n in numbers])
    place = {request.key: i for i, request in enumerate(plan.requests)}
    places = [place[response_id] for response_id in table["response_id"].to_pylist()]
    table = table.take(sorted(range(len(places)), key=places.__getitem__))
    with whole_directory(output) as folder:
        write_parquet(folder / RESPONSES_FILE, table)
        for number in numbers:
            _link_or_copy(parts / _shard_name(number), folder / _shard_name(number))
        shards = [_entry(folder / _shard_name(number)) for number in numbers]
        tokens = sum(shard["rows"] for shard in shards)
        manifest = {
            **_facts(policy),
            "hidden_size": policy.hidden_size,
            "dtype": str(stored_dtype(policy)).removeprefix("torch."),
            "shards": shards,
            "responses": _entry(folder / RESPONSES_FILE),
            "left_out": plan.left_out,
        }
        write_json(folder / MANIFEST, manifest)
    return {"responses": table.num_rows, "tokens": tokens, "shards": len(shards), "prompts_left_out": plan.left_out}


def stored_dtype(policy: Policy) -> torch.dtype:
    """Return the 16-bit type that states are stored in: bfloat16 for a bfloat16 model, else float16."""
    return torch.bfloat16 if policy.model.dtype == torch.bfloat16 else torch.float16


def _facts(policy: Policy) -> dict[str, str]:
    """What the states are of: in the metadata of each shard, and in the manifest."""
    revision = getattr(policy.model.config, "_commit_hash", None) or ""
    return {"fingerprint": policy.fingerprint, "layer": "final", "revision": revision}


def _entry(path: Path) -> dict[str, Any]:
    """Return a file's line in the manifest."""
    facts = pq.read_metadata(path)
    return {"file": path.name, "rows": facts.num_rows, "groups": facts.num_row_groups, "sha256": file_digest(path)}


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the folder lies on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _shard_name(number: int) -> str:
    return f"states-{number:05d}.parquet"


def _responses_name(number: int) -> str:
    return f"responses-{number:05d}.parquet"
