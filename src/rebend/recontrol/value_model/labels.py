"""Rewards of responses, looked up by the first 64 bits of the SHA-256 of a response id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rebend.errors import DataError
from rebend.io.schemas import SCORES
from rebend.recontrol.value_model.activation_store import key_of

_READ_BYTES = 2**16


class Labels:
    """Rewards of N responses: sorted keys [N] and their rewards [N], 16 bytes per response."""

    def __init__(self, keys: np.ndarray, rewards: np.ndarray, not_scored: int = 0) -> None:
        order = np.argsort(keys)
        self.keys, self.rewards, self.not_scored = keys[order], rewards[order], not_scored

    @classmethod
    def of(cls, rewards: Mapping[str, float]) -> Labels:
        """Return the labels of a mapping from response id to reward."""
        keys = np.array([key_of(name) for name in rewards], np.uint64)
        return cls(keys, np.array(list(rewards.values()), np.float64))

    @classmethod
    def read(cls, path: str | Path) -> Labels:
        """Return the labels of a file of schema SCORES. Responses that were not scored are counted and left out.

        Raises `DataError` if the file cannot be read.
        """
        keys, rewards, not_scored = [np.zeros(0, np.uint64)], [np.zeros(0)], 0
        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
                for batch in file.iter_batches(8192, columns=SCORES.names[:2], use_threads=False):
                    scored = batch.filter(batch["score"].is_valid())
                    keys.append(np.array([key_of(name) for name in scored["row_id"].to_pylist()], np.uint64))
                    rewards.append(scored["score"].to_numpy())
                    not_scored += len(batch) - len(scored)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{path}: no rewards can be read ({error}); delete it and run again") from error
        return cls(np.concatenate(keys), np.concatenate(rewards), not_scored)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the rewards [M] of keys [M]; NaN for a key without a reward."""
        if not len(self.keys):
            return np.full(len(keys), np.nan)
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[index] == keys, self.rewards[index], np.nan)
