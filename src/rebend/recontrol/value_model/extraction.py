"""Sample responses from a policy, and store the hidden state from which each token was sampled.

RE-Control's training data (arXiv:2406.05954, section 4). Row t of a response is the input of the LM head when token t
was sampled. The token that ends a response has a row with a mark, because methods of control act on its state too; all
tokens after it are left out.

The prompts are cut into chunks of adjacent rows. Each chunk is sorted by length, decoded and stored on its own, so that
a killed job resumes after the last finished chunk, and memory does not grow with the prompts. A shard is a sequence of
whole chunks, so the number of shards changes no row and no end of a row group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rebend.config.decoding import Decoding
from rebend.config.value_models import ActivationsBlock
from rebend.errors import DataError
from rebend.generation.continuous_batching import generate_continuous, supports_continuous_batching
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.requests import Request, Response, has_room, make_requests
from rebend.io.files import whole_file
from rebend.io.memory import give_back, keep_flat, memory_advice
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length
from rebend.models.hidden_states import block_of, response_states
from rebend.models.layers import FINAL
from rebend.models.loading import Policy
from rebend.recontrol.value_model.activation_store import (
    ACTIVATION_RESPONSES,
    ShardWriter,
    key_of,
    state_schema,
)
from rebend.recontrol.value_model.gathering import LEFT_OUT, NOT_DRAWN, ShardFiles, append_row_groups

_READ_BYTES = 2**16


def extract_activations(
    policy: Policy, prompts: str | Path, settings: ActivationsBlock, shard: int, outputs: ShardFiles, parts: Path
) -> dict[str, int]:
    """Write shard number `shard` of the prompts in a Parquet file (schema PROMPTS); return counts for the run record.

    Finished chunks are stored in the folder `parts`; a resumed run writes the same bytes as an undisturbed one. Raises
    `ConfigError` if the model does not have the layer, and `DataError` if one prompt needs more than `max_bytes`.
    """
    keep_flat()
    block_of(policy, settings.layer)  # raises for a wrong layer before anything is decoded
    size = settings.prompts_per_chunk
    n_chunks = -(-pq.read_metadata(prompts).num_rows // size)
    numbers = range(n_chunks * shard // settings.shards, n_chunks * (shard + 1) // settings.shards)
    limit = _highest_key(policy, prompts, settings)
    files = [ShardFiles(parts / f"states-{n:06d}.parquet", parts / f"responses-{n:06d}.parquet") for n in numbers]
    chunks = read_chunks(prompts, size, numbers)
    _check_prompts(policy, read_chunks(prompts, size, numbers))
    parts.mkdir(parents=True, exist_ok=True)
    for chunk_files, rows in progress(zip(files, chunks, strict=True), "extracting chunks", total=len(files)):
        if not Path(chunk_files.responses).exists():
            with memory_advice("a smaller decoding.batch_size or max_new_tokens"):
                _make_chunk(policy, rows, settings, limit, chunk_files)
            give_back()
    return _join(policy, files, settings, outputs)


def _check_prompts(policy: Policy, chunks: Iterator[list[dict[str, Any]]]) -> None:
    """Raise `ModelError`, before the model is asked, for a system turn that the chat template cannot write."""
    for rows in chunks:
        with_system = [row for row in rows if row["messages"][0]["role"] == "system"]
        make_requests(policy, [row["messages"] for row in with_system], keys=[row["row_id"] for row in with_system])


def read_chunks(prompts: str | Path, size: int, numbers: range) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows (row_id, messages) of the chunks with these numbers, `size` rows each; one chunk is in memory."""
    with pq.ParquetFile(prompts, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        batches = file.iter_batches(batch_size=size, columns=["row_id", "messages"], use_threads=False)
        # A batch also ends where a row group ends, so a batch can be shorter than a chunk.
        waiting: list[dict[str, Any]] = []
        number = 0
        for batch in batches:
            waiting += batch.to_pylist()
            while len(waiting) >= size:
                if number in numbers:
                    yield waiting[:size]
                waiting, number = waiting[size:], number + 1
        if waiting and number in numbers:
            yield waiting


def stored_dtype(policy: Policy) -> torch.dtype:
    """Return the 16-bit type that states are stored in: bfloat16 for a bfloat16 model, else float16."""
    return torch.bfloat16 if policy.model.dtype == torch.bfloat16 else torch.float16


def _highest_key(policy: Policy, prompts: str | Path, settings: ActivationsBlock) -> int | None:
    """Return the highest `key_of(row_id)` of the prompts whose states fit into `max_bytes`; None if all fit."""
    if settings.max_bytes is None:
        return None
    per_prompt = settings.samples_per_prompt * settings.decoding.max_new_tokens * policy.hidden_size * 2
    n = settings.max_bytes // per_prompt
    if n == 0:
        raise DataError(
            f"max_bytes {settings.max_bytes} has no room for the states of one prompt: {per_prompt} bytes "
            "(samples_per_prompt · max_new_tokens · hidden size · 2)"
        )
    with pq.ParquetFile(prompts) as file:
        batches = file.iter_batches(columns=["row_id"], use_threads=False)
        keys = [np.array([key_of(name) for name in batch["row_id"].to_pylist()], np.uint64) for batch in batches]
    ordered = np.sort(np.concatenate(keys))
    return None if n >= len(ordered) else int(ordered[n - 1])


def _make_chunk(
    policy: Policy, rows: Sequence[dict[str, Any]], settings: ActivationsBlock, limit: int | None, files: ShardFiles
) -> None:
    """Decode a chunk and write its states as responses end. The file of responses is written last, in prompt order."""
    drawn = [row for row in rows if limit is None or key_of(row["row_id"]) <= limit]
    requests, row_ids, left_out = _requests(policy, drawn, settings)
    metadata = {**_facts(policy, settings), "not_drawn": str(len(rows) - len(drawn))}
    dtype = stored_dtype(policy)
    schema = state_schema(policy.hidden_size, dtype, metadata, stored=settings.states == "stored")
    fields: dict[int, tuple[Any, ...]] = {}
    with whole_file(files.states) as path:
        writer = ShardWriter(path, schema, dtype)
        try:
            for i, response in _decode(policy, requests, settings):
                fields[i] = (requests[i].key, row_ids[i], response.text, len(response.token_ids), response.finish)
                writer.add(
                    requests[i].key,
                    response.chosen_ids,
                    response.states,
                    requests[i].prompt_ids,
                    ended=response.end_token is not None,
                )
        finally:
            writer.close()
    lines = [dict(zip(ACTIVATION_RESPONSES.names, fields[i], strict=True)) for i in range(len(requests))]
    table = pa.Table.from_pylist(lines, ACTIVATION_RESPONSES.with_metadata({LEFT_OUT: str(left_out)}))
    with whole_file(files.responses) as path:
        pq.write_table(table, path)


def _requests(
    policy: Policy, rows: Sequence[dict[str, Any]], settings: ActivationsBlock
) -> tuple[list[Request], list[str], int]:
    """Return a request per sample of each prompt that is not too long, their row ids, and the count of long prompts."""
    encoded = make_requests(policy, [row["messages"] for row in rows], keys=[row["row_id"] for row in rows])
    kept = [
        (row["row_id"], request)
        for row, request in zip(rows, encoded, strict=True)
        if len(request.prompt_ids) <= settings.max_prompt_tokens and has_room(policy, request, settings.decoding)
    ]
    samples = range(settings.samples_per_prompt)
    requests = [Request(f"{row_id}/{sample}", request.prompt_ids) for row_id, request in kept for sample in samples]
    return requests, [row_id for row_id, _ in kept for _ in samples], len(rows) - len(kept)


def _decode(policy: Policy, requests: Sequence[Request], settings: ActivationsBlock) -> Iterator[tuple[int, Response]]:
    """Yield (number of the request, response), with the states of the layer if states are stored."""
    stored, final = settings.states == "stored", settings.layer == FINAL
    responses = _responses(policy, requests, settings.decoding, keep_states=stored and final)
    while batch := list(islice(responses, settings.decoding.batch_size)):
        if stored and not final:
            pairs = [(requests[i].prompt_ids, response.chosen_ids) for i, response in batch]
            states = response_states(policy, pairs, settings.layer)
            batch = [(i, replace(response, states=s)) for (i, response), s in zip(batch, states, strict=True)]
        yield from batch


def _responses(
    policy: Policy, requests: Sequence[Request], decoding: Decoding, *, keep_states: bool
) -> Iterator[tuple[int, Response]]:
    """Yield (number of the request, response) as responses end; in fixed batches if the model's cache needs them."""
    if supports_continuous_batching(policy):
        yield from generate_continuous(policy, requests, decoding, keep_states=keep_states)
        return
    lengths = [len(request) + decoding.max_new_tokens for request in requests]
    for batch in batches_by_length(lengths, decoding.batch_size, decoding.batch_tokens):
        responses = generate_batch(policy, [requests[i] for i in batch], decoding, keep_states=keep_states)
        yield from zip(batch, responses, strict=True)


def _join(
    policy: Policy, chunks: Sequence[ShardFiles], settings: ActivationsBlock, outputs: ShardFiles
) -> dict[str, int]:
    """Join the chunks of a shard, row group by row group; return counts."""
    dtype = stored_dtype(policy)
    left_out = sum(int(pq.read_schema(chunk.responses).metadata[LEFT_OUT]) for chunk in chunks)
    not_drawn = sum(int(pq.read_schema(chunk.states).metadata[NOT_DRAWN]) for chunk in chunks)
    metadata = {**_facts(policy, settings), "not_drawn": str(not_drawn)}
    schema = state_schema(policy.hidden_size, dtype, metadata, stored=settings.states == "stored")
    responses_schema = ACTIVATION_RESPONSES.with_metadata({LEFT_OUT: str(left_out)})
    options: dict[str, Any] = {"compression": "none", "use_dictionary": ["response_id"], "write_statistics": False}
    with whole_file(outputs.states) as path, pq.ParquetWriter(path, schema, **options) as writer:
        tokens = sum(append_row_groups(writer, chunk.states) for chunk in chunks)
    with whole_file(outputs.responses) as path, pq.ParquetWriter(path, responses_schema) as writer:
        responses = sum(append_row_groups(writer, chunk.responses) for chunk in chunks)
    return {"responses": responses, "tokens": tokens, "prompts_left_out": left_out, "prompts_not_drawn": not_drawn}


def _facts(policy: Policy, settings: ActivationsBlock) -> dict[str, str]:
    """Return the origin of the states, for the metadata of each shard and the manifest."""
    return {"fingerprint": policy.fingerprint, "layer": str(settings.layer), "revision": policy.revision}
