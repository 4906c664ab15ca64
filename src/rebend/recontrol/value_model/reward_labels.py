"""Rewards of all responses of an activations folder, a block at a time."""

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

_BLOCK = 512  # responses that are sorted by length and scored together, and resumed after
_READ_BYTES = 2**16


def label_rewards(
    model: Reward, prompts: str | Path, responses: str | Path, output: str | Path, parts: ChunkStore
) -> dict[str, int]:
    """Write a file of schema SCORES with a reward for each response, in their order; return counts.

    `prompts` is a Parquet file of schema PROMPTS, `responses` one of schema ACTIVATION_RESPONSES with the prompts in
    the same order, as extraction leaves it. A reward that is no number is "not scored" with that reason, and said on
    standard error. Raises `ModelError` if the first block has no number at all, before more is paid for, and
    `DataError` if a response belongs to no prompt.
    """
    keep_flat()
    rows, not_scored = 0, 0
    blocks = -(-pq.read_metadata(responses).num_rows // _BLOCK)
    with whole_file(output) as path, pq.ParquetWriter(path, SCORES, compression="zstd") as writer:
        pairs = progress(_blocks(prompts, responses), "labelling blocks", total=blocks)
        for number, (messages, made) in enumerate(pairs):
            names = [row["response_id"] for row in made]
            with naming(names):
                found = model.score(messages, [row["response"] for row in made], parts.within(f"block-{number:06d}"))
            table = score_table(names, found)
            if number == 0 and table["score"].null_count == len(made):
                raise ModelError(
                    f"the reward model gave no number for any of the first {len(made)} responses "
                    f"({table['not_scored'][0]}); try `dtype: float32` or `bfloat16`, and check its weights"
                )
            rows, not_scored = rows + len(made), not_scored + table["score"].null_count
            writer.write_table(table, row_group_size=len(made))
            give_back()
    if not_scored:
        print(f"WARNING: {not_scored} of {rows} responses were not scored", file=sys.stderr, flush=True)
    return {"rows": rows, "not_scored": not_scored}


def _blocks(
    prompts: str | Path, responses: str | Path
) -> Iterator[tuple[list[Sequence[Message]], list[dict[str, Any]]]]:
    """Yield blocks of responses, each with the messages that it answers; two files are read side by side."""
    questions = _rows(prompts, PROMPTS, ["row_id", "messages"])
    current: dict[str, Any] = {"row_id": None}
    messages: list[Sequence[Message]] = []
    made: list[dict[str, Any]] = []
    for answer in _rows(responses, ACTIVATION_RESPONSES, ["response_id", "row_id", "response"]):
        while current["row_id"] != answer["row_id"]:
            following = next(questions, None)
            if following is None:
                raise DataError(
                    f"{responses}: response '{answer['response_id']}' belongs to no prompt of {prompts} after that of "
                    "the response before it; it was made from another version of the data"
                )
            current = following
        messages.append(current["messages"])
        made.append(answer)
        if len(made) == _BLOCK:
            yield messages, made
            messages, made = [], []
    if made:
        yield messages, made


def _rows(path: str | Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, a block of them in memory."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: column '{missing[0]}' is missing; expected {schema.names}")
            for batch in file.iter_batches(_BLOCK, columns=list(columns), use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}). Delete it and run again.") from error
