"""Labelled responses as a value network reads them: split by prompt, streamed from disk, shuffled on the way.

In memory are some 30 bytes a response, one row group and two batches. The order of a shuffled pass is decided by
(seed, epoch) alone: the row groups of all shards, numbered through, are taken in a random order into a pool; when
the pool holds two batches it is put in a random order and batches are taken from it while one is left. Row groups
end where the responses and chunks of extraction say, so the order does not depend on the number of shards.
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

TRAIN, HELD_OUT, LOOKED_AT = 1, 2, 4  # bits: what is looked at is a part of what is held out
MOST_LOOKED_AT = 5000  # responses
_POOL = 2  # batches that are mixed
_READ_BYTES = 2**16


class ValueData:
    """The labelled responses of an activations folder, each on one side: training or held out."""

    def __init__(self, source: Activations, labels: Labels, share: float, seed: int) -> None:
        self.source = source
        self.index = source.index()
        self.rewards = labels.find(self.index.keys)
        self.sides, self.prompts_looked_at = split_by_prompt(source, labels, self.index.keys, share, seed)
        give_back()

    def count(self, side: int) -> int:
        """Return how many responses are on a side."""
        return int(np.count_nonzero(self.sides & side))

    def batches(self, side: int, size: int, rng: np.random.Generator | None = None) -> Iterator[list[Labelled]]:
        """Stream the responses of a side in batches of `size`, shuffled if `rng` is given."""
        groups = np.arange(len(self.source.places))
        pool: list[Labelled] = []
        for group in rng.permutation(groups) if rng else groups:
            pool += self._responses(int(group), side)
            if len(pool) >= _POOL * size:
                pool = yield from _drain(pool, size, rng)
        pool = yield from _drain(pool, size, rng)
        if pool:
            yield pool

    def _responses(self, group: int, side: int) -> list[Labelled]:
        """Return the responses of a row group that are on a side; nothing is read if there are none."""
        own = slice(self.index.first[group], self.index.first[group + 1])
        wanted = np.flatnonzero(self.sides[own] & side)
        if not len(wanted):
            return []
        parts = self.source.states(group).split(self.index.lengths[own].tolist())
        rewards = self.rewards[own]
        few = len(wanted) < len(parts) // 2  # views of them would hold a row group each in memory
        return [(parts[i].clone() if few else parts[i], float(rewards[i])) for i in wanted]


def _drain(
    pool: list[Labelled], size: int, rng: np.random.Generator | None
) -> Generator[list[Labelled], None, list[Labelled]]:
    """Yield batches from the pool while it fills one; return the rest, as copies: a view would hold its row group."""
    order = rng.permutation(len(pool)) if rng else np.arange(len(pool))
    full = len(pool) // size * size
    for start in range(0, full, size):
        yield [pool[i] for i in order[start : start + size]]
    rest = [(pool[i][0].clone(), pool[i][1]) for i in order[full:]]
    pool.clear()
    give_back()
    return rest


def split_by_prompt(
    source: Activations, labels: Labels, keys: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, int]:
    """Return the side [N] of the responses with these `keys`: TRAIN, HELD_OUT, or 0 without a reward; and how many
    prompts of those held out are looked at by an audit, whose responses have the bit LOOKED_AT too.

    Held out is the share of the prompts whose SHA-256 of "{seed}/{row_id}" is lowest; at least one, and not all.
    Looked at are, of these, those with the lowest: a sample over the whole side, as many whole prompts as have
    `MOST_LOOKED_AT` responses together. Raises `DataError` if fewer than two prompts can be used.
    """
    names, prompts = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    with pq.ParquetFile(source.responses_file, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        for batch in file.iter_batches(8192, columns=["response_id", "row_id"], use_threads=False):
            names.append(np.array([key_of(name) for name in batch["response_id"].to_pylist()], np.uint64))
            prompts.append(np.array([key_of(f"{seed}/{name}") for name in batch["row_id"].to_pylist()], np.uint64))
    name, prompt = np.concatenate(names), np.concatenate(prompts)
    order = np.argsort(name)
    own = prompt[order[np.searchsorted(name[order], keys)]]
    usable = np.isfinite(labels.find(keys))
    found = np.unique(own[usable])
    if len(found) < 2:
        raise DataError(f"responses to {len(found)} prompts have a token and a reward; at least 2 are needed")
    n_held = min(len(found) - 1, max(1, round(share * len(found))))
    held, responses = np.unique(own[usable & (own <= found[n_held - 1])], return_counts=True)
    n_looked_at = max(1, int(np.searchsorted(responses.cumsum(), MOST_LOOKED_AT, side="right")))
    sides = np.where(own <= held[-1], HELD_OUT, TRAIN) | np.where(own <= held[n_looked_at - 1], LOOKED_AT, 0)
    return np.where(usable, sides, 0).astype(np.int8), n_looked_at
