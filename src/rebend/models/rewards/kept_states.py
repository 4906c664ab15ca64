"""States of pairs, kept while only the head is trained: each pair passes through the frozen decoder once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rebend.models.rewards.held_out import last_states
from rebend.models.rewards.pairs import Pair


class KeptStates:
    """The states [2, D] at the last tokens of `pairs`, float32 on the CPU, computed when they are first needed.

    A pair passes through the model alone, so that its states depend on no batch, and a resumed training has the same
    ones. They take 8 D bytes a pair.
    """

    def __init__(self, model: Any, pairs: Sequence[Pair]) -> None:
        self.model = model
        self.number = {id(pair): number for number, pair in enumerate(pairs)}
        self.known: dict[int, Tensor] = {}

    def rewards(self, pairs: Sequence[Pair]) -> Tensor:
        """Return the rewards [N, 2] of pairs, with a gradient for the head only."""
        states = torch.stack([self._states(pair) for pair in pairs]).to(self.model.device)
        return self.model.score(states).squeeze(-1)

    @torch.no_grad()
    def _states(self, pair: Pair) -> Tensor:
        number = self.number[id(pair)]
        if number not in self.known:
            self.known[number] = last_states(self.model, [pair.chosen, pair.rejected]).cpu()
        return self.known[number]
