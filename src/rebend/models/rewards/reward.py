"""The interface of all reward models, and the function that loads one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from rebend.config.rewards import RewardBlock
from rebend.errors import ModelError
from rebend.io.chunks import ChunkStore
from rebend.io.registry import load_code
from rebend.models.chat import Message


class Reward(Protocol):
    """A reward model: one number for a prompt and its response."""

    def score(
        self, messages: Sequence[Sequence[Message]], responses: Sequence[str | None], chunks: ChunkStore | None = None
    ) -> list[float | None]:
        """Return a reward for each prompt with its response, in their order.

        None for no response; NaN if the model returns no number. Both mean "not scored". Finished rewards are stored in
        `chunks`.
        """


class BadRewardError(ModelError):
    """A reply with an entry that is no number; `row` is the number of the prompt, from 0."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


@contextmanager
def naming(row_ids: Sequence[str]) -> Iterator[None]:
    """Inside the block, turn a `BadRewardError` into a `ModelError` with the id of the row."""
    try:
        yield
    except BadRewardError as error:
        raise ModelError(f"row '{row_ids[error.row]}': {error}") from error


def load_reward(
    path: str | Path, settings: RewardBlock, device: torch.device | None = None, endpoint_options: str = "{}"
) -> Reward:
    """Load a reward model folder in hub layout, or return the client of a reward model behind an address.

    `endpoint_options` is the JSON of `rebend.config.rewards.endpoint_options`. Raises `ModelError` for a folder that is
    no reward model, and for a missing address or key.
    """
    reward: Reward = load_code(settings.code)(path, settings, device, endpoint_options)
    return reward
