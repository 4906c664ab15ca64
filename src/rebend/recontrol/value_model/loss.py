"""The objective of a value network (arXiv:2406.05954, section 4): the paper's, and the released code's.

For a response with states s_1 … s_T and reward r, summed over states and averaged over responses (key `variant`):

    corrected       Σ_{t<T} (V(s_t) − G_{t+1})² + (V(s_T) − r)²
    released_code   Σ_{t<T} (V(s_t) − V(s_{t+1}))² + (V(s_1) − r)²

G_{t+1} = (1 − λ)·V(s_{t+1}) + λ·G_{t+2}, G_{T+1} = r, always without gradient. λ = 0 is the paper's objective, in
which the reward reaches earlier tokens through V only; λ = 1 fits the reward at every token (plain Monte Carlo).
The last state is the one that the end token was sampled from, if the response ended by itself (key `end_state`), since
control acts on it too. The released code leaves it out for Llama 3 and Falcon, and keeps it for Vicuna; of an empty
response it reads it in any case, with the reward.

The released code takes the argmax of a 0/1 mask for the last token, but the argmax is the first 1. Its gradient flows
through both neighbours. At its optimum V is the same at all tokens of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rebend.config.value_models import ValueModelBlock
from rebend.recontrol.value_model.network import ValueNetwork


class Labelled(NamedTuple):
    """A response with its reward."""

    states: torch.Tensor  # [N, D]
    reward: float
    ended: bool = False  # the last state is the one that the end token was sampled from

    @property
    def n_tokens(self) -> int:
        """The number of tokens T of the response; 0 for an empty one."""
        return len(self.states) - self.ended


def masked(batch: Sequence[Labelled], settings: ValueModelBlock) -> Sequence[Labelled]:
    """Return the responses with the states that the objective reads: all, or without those of end tokens.

    An empty response keeps its only state, as in the released code, whose mask's argmax is its first state.
    """
    if settings.end_state == "kept":
        return batch
    return [Labelled(row.states[: row.n_tokens or 1], row.reward, ended=not row.n_tokens) for row in batch]


def values_read(
    values: torch.Tensor, lengths: torch.Tensor, batch: Sequence[Labelled], settings: ValueModelBlock
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the packed values and the lengths of `masked(batch)` from those of the whole batch."""
    if settings.end_state == "kept":
        return values, lengths
    left_out = torch.tensor([row.ended and row.n_tokens > 0 for row in batch], device=values.device)
    read = torch.ones(len(values), dtype=torch.bool, device=values.device)
    read[(lengths.cumsum(0) - 1)[left_out]] = False
    return values[read], lengths - left_out.long()


def packed(batch: Sequence[Labelled], network: ValueNetwork) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states [N, D] without padding, lengths [B] and rewards [B]; states and rewards in the network's type."""
    weight = network.first.weight
    states = torch.cat([row.states for row in batch]).to(weight.device, weight.dtype)
    lengths = torch.tensor([len(row.states) for row in batch], device=weight.device)
    return states, lengths, torch.tensor([row.reward for row in batch], device=weight.device, dtype=weight.dtype)


def summed_loss(
    values: torch.Tensor, lengths: torch.Tensor, rewards: torch.Tensor, settings: ValueModelBlock
) -> torch.Tensor:
    """Return the objective of packed values [N], with lengths [B] and rewards [B], summed over tokens and responses."""
    if settings.variant == "corrected":
        return (values - returns(values, lengths, rewards, settings.td_lambda)).square().sum()
    last = lengths.cumsum(0) - 1
    neighbours = torch.ones(len(values), dtype=torch.bool, device=values.device)
    neighbours[last] = False  # the next value belongs to another response
    residuals = (values[:-1] - values[1:])[neighbours[:-1]]
    return residuals.square().sum() + (values[last - lengths + 1] - rewards).square().sum()


def returns(values: torch.Tensor, lengths: torch.Tensor, rewards: torch.Tensor, td_lambda: float) -> torch.Tensor:
    """Return the targets [N] of packed values [N]: responses of `lengths` [B] tokens with `rewards` [B].

    No gradient goes through them. The target of the last state of each response is its reward.
    """
    values = values.detach()
    last = lengths.cumsum(0) - 1
    if td_lambda == 1:
        return rewards.repeat_interleave(lengths)
    if td_lambda == 0:
        targets = torch.cat([values[1:], values[:1]])
        targets[last] = rewards
        return targets
    targets = torch.empty_like(values)
    target = rewards
    for back in range(int(lengths.max())):  # all responses together, from the last token to the first
        inside = back < lengths
        tokens = (last - back)[inside]
        targets[tokens] = target[inside]
        target = target.clone()
        target[inside] = (1 - td_lambda) * values[tokens] + td_lambda * target[inside]
    return targets
