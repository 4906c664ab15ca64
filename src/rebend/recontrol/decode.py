"""From the block of a control to what is done while decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from rebend.config.controls import (
    AscentBlock,
    BestOfNBlock,
    CdPrefixPromptingBlock,
    ControlBlock,
    ControlledDecodingBlock,
    PrefixSearchBlock,
    PromptingBlock,
    RandomControlBlock,
    SearchBlock,
    StaticControlBlock,
    TunedBlock,
    ValuePromptingBlock,
)
from rebend.config.rewards import RewardBlock
from rebend.errors import ConfigError
from rebend.generation.generate import decode
from rebend.io.chunks import ChunkStore
from rebend.models.loading import Policy
from rebend.models.rewards.model import Reward, load_reward
from rebend.recontrol.methods.best_of_n import best_of_n
from rebend.recontrol.methods.controls import Control, NoControl, Prompted, Prompting, RandomDirection, ValueAscent
from rebend.recontrol.methods.static import StaticShift
from rebend.recontrol.methods.token_search import PrefixSearch, RewardSearch
from rebend.recontrol.value_model.direction import load_direction
from rebend.recontrol.value_model.network import ValueNetwork, load_value


@dataclass(frozen=True)
class Aids:
    """What a control may need besides the model."""

    network: ValueNetwork | None = None
    direction: torch.Tensor | None = None
    reward: Reward | None = None


def load_aids(
    policy: Policy, inputs: Mapping[str, Any], guide: Mapping[str, Any] | None = None, asking: str = "{}"
) -> Aids:
    """Load what `inputs` has a path for: `value`, `direction`, `guide` (a reward model with the settings `guide`).

    A reward model at an address is asked as `asking` says (`rebend.config.rewards.asking`). Raises `ModelError` for
    what was made for another model.
    """
    value, direction, reward = (inputs.get(key) or None for key in ("value", "direction", "guide"))
    return Aids(
        load_value(value, policy.fingerprint, policy.hidden_size, policy.device) if value else None,
        load_direction(direction, policy.fingerprint, policy.hidden_size) if direction else None,
        load_reward(reward, RewardBlock.model_validate(guide), policy.device, asking) if reward else None,
    )


def make_control(block: ControlBlock, aids: Aids) -> Control:
    """Return the control that `block` describes, for one that changes prompt, state or choice of a token.

    Its strength must be a number by now; a strength of 0 is no control at all.
    """
    if isinstance(block, PromptingBlock):
        return Prompting(block.instruction)
    if not isinstance(block, TunedBlock):
        return NoControl()
    control = _tuned(block, aids) if getattr(block, block.strength) else NoControl()
    if isinstance(block, (ValuePromptingBlock, CdPrefixPromptingBlock)):
        return Prompted(block.instruction, control)
    return control


def _tuned(block: TunedBlock, aids: Aids) -> Control:
    strength = getattr(block, block.strength)
    if isinstance(strength, str):
        raise ConfigError(f"control '{block.method}' needs a number for `{block.strength}`; it is chosen beforehand")
    if isinstance(block, AscentBlock) and aids.network is not None and not isinstance(block.n_steps, str):
        kind = RandomDirection if isinstance(block, RandomControlBlock) else ValueAscent
        return kind(aids.network, float(strength), block.n_steps, block.variant)
    if isinstance(block, StaticControlBlock) and aids.direction is not None:
        return StaticShift(aids.direction, float(strength))
    if isinstance(block, PrefixSearchBlock) and aids.network is not None:
        return PrefixSearch(aids.network, float(strength), block.top_k)
    if isinstance(block, ControlledDecodingBlock) and aids.reward is not None:
        return RewardSearch(aids.reward, float(strength), block.top_k)
    raise ConfigError(
        f"control '{block.method}' lacks its value network, its number of steps, direction or reward model"
    )


def decode_under(
    policy: Policy, rows: Sequence[dict[str, Any]], block: ControlBlock, aids: Aids, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return responses (schema RESPONSES) under the control that `block` describes, and counts for the record.

    `tokens` are those of the responses; `tokens_generated` and `candidates_scored` say how many tokens the
    policy had to read for them: with what best-of-n throws away, and with the candidates of a search.
    """
    if isinstance(block, BestOfNBlock):
        if aids.reward is None:
            raise ConfigError("control 'best_of_n' lacks its reward model")
        return best_of_n(policy, rows, block, aids.reward, parts)
    table, notes = decode(policy, rows, block.decoding, make_control(block, aids), parts)
    ended = sum(found != "length" for found in table["finish"].to_pylist() if found is not None)
    searched = isinstance(block, SearchBlock) and getattr(block, block.strength) != 0
    per_token = block.top_k if searched and isinstance(block, SearchBlock) else 0
    extra = {"tokens_generated": notes["tokens"], "candidates_scored": per_token * (notes["tokens"] + ended)}
    return table, {**notes, **extra}
