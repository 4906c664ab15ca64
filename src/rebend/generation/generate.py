"""Decode responses to prompts, by continuous batching where model and control allow it, else in fixed batches.

A response's random numbers depend on its key and the seed only, so order, batch size and number of shards change only
the rounding of the logits. Peak memory depends on the weights, and on the tokens in the KV cache: at most `batch_size`
prompts with their longest responses, or `batch_tokens` tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any

import pyarrow as pa

from rebend.config.decoding import Decoding
from rebend.generation.continuous_batching import generate_continuous, supports_continuous_batching
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.intervention import Control, NoControl
from rebend.generation.requests import Request, Response, has_room, make_requests
from rebend.generation.sampling import with_checkpoint
from rebend.io.chunks import ChunkStore
from rebend.io.memory import memory_advice
from rebend.io.progress import progress
from rebend.io.schemas import RESPONSES
from rebend.models.batching import batches_by_length
from rebend.models.chat import Message
from rebend.models.loading import Policy

_BATCHES_PER_CHUNK = 4  # of continuous batching: a chunk is stored when its last response has ended


def generate(
    policy: Policy,
    messages: Sequence[Sequence[Message]],
    decoding: Decoding,
    *,
    prefills: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    control: Control | None = None,
    parts: ChunkStore | None = None,
) -> list[Response | None]:
    """Return one response per prompt, in the order of the prompts.

    The response is None if the context has no room for the prompt and `max_new_tokens`. `keys` seed the sampling; the
    default is the positions. Finished chunks are stored in `parts`. Raises `ModelError` if memory runs out.
    """
    control, parts = control or NoControl(), parts or ChunkStore(None)
    requests = make_requests(policy, messages, prefills=prefills, keys=keys, control=control)
    fitting = [i for i, request in enumerate(requests) if has_room(policy, request, decoding)]
    responses: list[Response | None] = [None] * len(requests)
    with memory_advice("a smaller decoding.batch_tokens, batch_size or max_new_tokens"):
        for i, response in _decoded(policy, [requests[i] for i in fitting], decoding, control, parts):
            responses[fitting[i]] = response
    return responses


def _decoded(
    policy: Policy, requests: Sequence[Request], decoding: Decoding, control: Control, parts: ChunkStore
) -> Iterator[tuple[int, Response]]:
    """Yield (number of the request, response), longest prompts first; finished chunks are stored in `parts`."""
    continuous, lengths = supports_continuous_batching(policy, control), [len(request) for request in requests]
    if continuous:
        order, size = sorted(range(len(requests)), key=lambda i: -lengths[i]), _BATCHES_PER_CHUNK * decoding.batch_size
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
    else:
        new = decoding.max_new_tokens
        chunks = batches_by_length([length + new for length in lengths], decoding.batch_size, decoding.batch_tokens)
    done = 0
    for number, chunk in enumerate(chunks):
        asked = [requests[i] for i in chunk]

        def make(asked: list[Request] = asked, done: int = done) -> list[dict[str, Any]]:
            if not continuous:
                return [vars(response) for response in generate_batch(policy, asked, decoding, control=control)]
            found = generate_continuous(policy, asked, decoding, control=control)
            shown = progress(found, "decoding", total=len(requests), done=done)
            return _fields_in_order(shown, len(asked), decoding.batch_size, parts.on_made)

        stored = parts.get_or_make(f"batch-{number:05d}", make)
        fields = stored if continuous else progress(stored, "decoding", total=len(requests), done=done)
        yield from ((i, Response(**line)) for i, line in zip(chunk, fields, strict=True))
        done += len(chunk)


def _fields_in_order(
    found: Iterable[tuple[int, Response]], total: int, size: int, on_batch: Callable[[], None]
) -> list[dict[str, Any]]:
    """Return the fields of all responses; `on_batch` is called after each `size` of them but the last ones."""
    fields: dict[int, dict[str, Any]] = {}
    for number, response in found:
        fields[number] = vars(response)
        if len(fields) % size == 0 and len(fields) < total:
            on_batch()
    return [fields[number] for number in range(total)]


def decode(
    policy: Policy, rows: Sequence[dict[str, Any]], decoding: Decoding, control: Control, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return responses (schema RESPONSES) to rows of a prompts data set, and counts for the run record.

    A prompt without room in the context has a null response.
    """
    prompts, keys = [row["messages"] for row in rows], [row["row_id"] for row in rows]
    responses = generate(policy, prompts, decoding, keys=keys, control=control, parts=parts)
    table = pa.Table.from_pylist(
        [_line(key, response) for key, response in zip(keys, responses, strict=True)], RESPONSES
    )
    tokens = sum(table["n_tokens"].to_pylist())
    clipped = sum(response.n_clipped for response in responses if response)
    if clipped:
        print(f"WARNING: the control was clipped at {clipped} of {tokens} tokens", file=sys.stderr, flush=True)
    notes: dict[str, Any] = {"tokens": tokens, "tokens_clipped": clipped, "prompts_without_room": responses.count(None)}
    if control.begin([]) is not None:
        notes["norm_limit"] = control.norm_limit if control.norm_limit < inf else None  # in lengths of the state
    if decoding.from_checkpoint:
        used = with_checkpoint(decoding, policy.model.generation_config)
        notes["sampling"] = {"temperature": used.temperature, "top_k": used.top_k, "top_p": used.top_p}
    return table, notes


def _line(row_id: str, response: Response | None) -> dict[str, Any]:
    """Return a row of RESPONSES."""
    return {
        "row_id": row_id,
        "response": response and response.text,
        "n_tokens": len(response.token_ids) if response else 0,
        "finish": response and response.finish,
        "edit_norm": response.edit_norm if response else 0.0,
    }
