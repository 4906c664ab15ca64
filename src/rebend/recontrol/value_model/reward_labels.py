"""Score all responses of an activations folder, one block at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rebend.errors import DataError, ModelError
from rebend.io.chunks import ChunkStore
from rebend.io.files import whole_file
from rebend.io.memory import give_back, keep_flat
from rebend.io.progress import progress
from rebend.io.schemas import PROMPTS, SCORES
from rebend.io.scores import score_table
from rebend.models.chat import Message
from rebend.models.rewards.reward import Reward, naming
from rebend.recontrol.value_model.activation_store import ACTIVATION_RESPONSES

_BLOCK = 512  # responses that are sorted by length and scored together; a killed job resumes after the last block
_READ_BYTES = 2**16


def label_rewards(
    model: Reward, prompts: str | Path, responses: str | Path, output: str | Path, parts: ChunkStore
) -> dict[str, int]:
    """Write the reward of each response (schema SCORES), in the order of the responses; return counts.

    `prompts` is a Parquet file of schema PROMPTS, `responses` one of schema ACTIVATION_RESPONSES in the same order. A
    response with a non-finite reward is "not scored"; a warning on standard error has their number. Raises
    `ModelError` if no reward of the first block is finite, and `DataError` if a response belongs to no prompt.
    """
    keep_flat()
    rows, not_scored = 0, 0
    blocks = -(-pq.read_metadata(responses).num_rows // _BLOCK)
    with whole_file(output) as path, pq.ParquetWriter(path, SCORES, compression="zstd") as writer:
        pairs = progress(_blocks(prompts, responses), "labelling blocks", total=blocks)
        for number, (messages, block) in enumerate(pairs):
            names = [row["response_id"] for row in block]
            with naming(names):
                rewards = model.score(messages, [row["response"] for row in block], parts.within(f"block-{number:06d}"))
            table = score_table(names, rewards)
            if number == 0 and table["score"].null_count == len(block):
                raise ModelError(
                    f"the reward model returned no number for any of the first {len(block)} responses "
                    f"({table['not_scored'][0]}); try `dtype: float32` or `bfloat16`, and check its weights"
                )
            rows, not_scored = rows + len(block), not_scored + table["score"].null_count
            writer.write_table(table, row_group_size=len(block))
            give_back()
    if not_scored:
        print(f"WARNING: {not_scored} of {rows} responses were not scored", file=sys.stderr, flush=True)
    return {"rows": rows, "not_scored": not_scored}


def _blocks(
    prompts: str | Path, responses: str | Path
) -> Iterator[tuple[list[Sequence[Message]], list[dict[str, Any]]]]:
    """Yield blocks of responses, each with the messages that its responses answer."""
    prompt_rows = _rows(prompts, PROMPTS, ["row_id", "messages"])
    prompt: dict[str, Any] = {"row_id": None}
    messages: list[Sequence[Message]] = []
    block: list[dict[str, Any]] = []
    for response in _rows(responses, ACTIVATION_RESPONSES, ["response_id", "row_id", "response"]):
        while prompt["row_id"] != response["row_id"]:
            following = next(prompt_rows, None)
            if following is None:
                raise DataError(
                    f"{responses}: response '{response['response_id']}' belongs to no prompt of {prompts}, or is not "
                    "in the order of the prompts; it was sampled from another version of the data"
                )
            prompt = following
        messages.append(prompt["messages"])
        block.append(response)
        if len(block) == _BLOCK:
            yield messages, block
            messages, block = [], []
    if block:
        yield messages, block


def _rows(path: str | Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with one block in memory."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: column '{missing[0]}' is missing; expected {schema.names}")
            for batch in file.iter_batches(_BLOCK, columns=list(columns), use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}). Delete it and run again.") from error
