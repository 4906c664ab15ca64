"""Labelled responses for a value network: split by prompt, streamed from disk and shuffled.

About 30 bytes per response, one row group and two batches are in memory. The order of a shuffled pass depends on seed
and epoch only: the row groups of all shards are read in a random order into a pool. When the pool holds two batches, it
is shuffled, and all whole batches are taken from it. The order does not depend on the number of shards, because the
row groups do not.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import pyarrow.parquet as pq

from rebend.errors import DataError
from rebend.io.memory import give_back
from rebend.recontrol.value_model.activation_store import Activations, key_of
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.loss import Labelled

TRAIN, HELD_OUT, AUDITED = 1, 2, 4  # bits of a response's side; audited responses are held out as well
MAX_AUDITED = 5000  # responses
_POOL = 2  # batches that are shuffled together
_READ_BYTES = 2**16


class ValueData:
    """The labelled responses of an activations folder. Each is for training or held out; with share 0 none is."""

    def __init__(self, source: Activations, labels: Labels, share: float, seed: int) -> None:
        self.source = source
        self.index = source.index()
        self.rewards = labels.find(self.index.keys)
        self.sides, self.audited_prompts = split_by_prompt(source, labels, self.index.keys, share, seed)
        give_back()

    def count(self, side: int) -> int:
        """Return the number of responses of a side (TRAIN, HELD_OUT or AUDITED)."""
        return int(np.count_nonzero(self.sides & side))

    def batches(self, side: int, size: int, rng: np.random.Generator | None = None) -> Iterator[list[Labelled]]:
        """Yield the responses of a side in batches of `size`, shuffled if `rng` is given."""
        groups = np.array(self.source.groups())
        pool: list[Labelled] = []
        for group in rng.permutation(groups) if rng else groups:
            pool += self._responses(int(group), side)
            if len(pool) >= _POOL * size:
                pool = yield from _drain(pool, size, rng)
        pool = yield from _drain(pool, size, rng)
        if pool:
            yield pool

    def _responses(self, group: int, side: int) -> list[Labelled]:
        """Return the responses of a row group that are on a side. Reads no states if there are none."""
        of_group = slice(self.index.first[group], self.index.first[group + 1])
        chosen = np.flatnonzero(self.sides[of_group] & side)
        if not len(chosen):
            return []
        states = self.source.states(group).split(self.index.lengths[of_group].tolist())
        rewards, ended = self.rewards[of_group], self.index.ended[of_group]
        copy = len(chosen) < len(states) // 2  # a view would keep the whole row group in memory
        return [Labelled(states[i].clone() if copy else states[i], float(rewards[i]), bool(ended[i])) for i in chosen]


def _drain(
    pool: list[Labelled], size: int, rng: np.random.Generator | None
) -> Generator[list[Labelled], None, list[Labelled]]:
    """Yield the whole batches of the pool; return the rest as copies: a view would keep its row group in memory."""
    order = rng.permutation(len(pool)) if rng else np.arange(len(pool))
    full = len(pool) // size * size
    for start in range(0, full, size):
        yield [pool[i] for i in order[start : start + size]]
    rest = [pool[i]._replace(states=pool[i].states.clone()) for i in order[full:]]
    pool.clear()
    give_back()
    return rest


def split_by_prompt(
    source: Activations, labels: Labels, keys: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, int]:
    """Return the sides [N] of the responses with these `keys` [N], and the number of audited prompts.

    A side is TRAIN, HELD_OUT, HELD_OUT | AUDITED, or 0 for a response without a reward. The prompts with the lowest
    SHA-256 of "{seed}/{row_id}" are held out: a share of all prompts, at least one and not all. The lowest of these are
    audited, as whole prompts with at most `MAX_AUDITED` responses together, at least one prompt. With a share of 0 none
    is held out, and the lowest of all prompts are audited: TRAIN | AUDITED.

    Raises `DataError` if responses to fewer than two prompts have a reward.
    """
    responses, prompts = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    with pq.ParquetFile(source.responses_file, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        for batch in file.iter_batches(8192, columns=["response_id", "row_id"], use_threads=False):
            responses.append(np.array([key_of(name) for name in batch["response_id"].to_pylist()], np.uint64))
            prompts.append(np.array([key_of(f"{seed}/{name}") for name in batch["row_id"].to_pylist()], np.uint64))
    response_keys, prompt_keys = np.concatenate(responses), np.concatenate(prompts)
    order = np.argsort(response_keys)
    prompt = prompt_keys[order[np.searchsorted(response_keys[order], keys)]]  # [N]
    usable = np.isfinite(labels.find(keys))
    distinct = np.unique(prompt[usable])
    if len(distinct) < 2:
        raise DataError(f"responses to {len(distinct)} prompts have a reward; at least 2 are needed")
    n_held_out = min(len(distinct) - 1, max(1, round(share * len(distinct)))) if share else 0
    low, counts = np.unique(prompt[usable], return_counts=True)
    counts = counts[: n_held_out or len(low)]
    n_audited = max(1, int(np.searchsorted(counts.cumsum(), MAX_AUDITED, side="right")))
    held_out = prompt <= low[n_held_out - 1] if n_held_out else np.zeros(len(prompt), np.bool_)
    sides = np.where(held_out, HELD_OUT, TRAIN) | np.where(prompt <= low[n_audited - 1], AUDITED, 0)
    return np.where(usable, sides, 0).astype(np.int8), n_audited
