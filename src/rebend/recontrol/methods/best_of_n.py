"""Best of n: several responses are sampled, and a reward model picks one.

It generates about n times the tokens. They are counted exactly, so that controls can be compared at equal compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rebend.config.controls import BestOfNBlock
from rebend.generation.generate import decode
from rebend.generation.intervention import NoControl
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import RESPONSES
from rebend.models.loading import Policy
from rebend.models.rewards.reward import Reward
from rebend.recontrol.guidance import guidance_reward
from rebend.recontrol.resources import ControlResources


def make(block: BestOfNBlock, resources: ControlResources) -> BestOfN:
    """Return the control with its reward model. Raises `ConfigError` if there is none."""
    return BestOfN(block, guidance_reward(block.method, resources))


@dataclass(frozen=True)
class BestOfN(NoControl):
    """Samples n responses without control and picks the one with the highest reward."""

    block: BestOfNBlock
    reward: Reward

    def decode(
        self, policy: Policy, rows: Sequence[dict[str, Any]], parts: ChunkStore
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Return the response with the highest reward for each row (schema RESPONSES), and counts for the run record.

        Sample i of a row is the same for every n: it has its own random numbers. `tokens` counts the tokens of the
        picked responses, `tokens_generated` those of all samples. The first of equal rewards is picked, and sample 0
        if no sample has a reward; `picked_without_reward` counts such rows.
        """
        n = self.block.n
        samples = [{**row, "row_id": f"{row['row_id']}/{i}"} for row in rows for i in range(n)]
        table, notes = decode(policy, samples, self.block.decoding, NoControl(), parts.within("samples"))
        responses = table.to_pylist()
        prompts, texts = [row["messages"] for row in samples], [line["response"] for line in responses]
        rewards = self.reward.score(prompts, texts, parts.within("rewards"))
        picked, without_reward = [], 0
        for number, row in enumerate(rows):
            first = number * n
            best = pick(rewards[first : first + n])
            without_reward += best is None and responses[first]["response"] is not None
            picked.append({**responses[first + (best or 0)], "row_id": row["row_id"]})
        counts = {
            "tokens": sum(line["n_tokens"] for line in picked),
            "tokens_generated": notes["tokens"],
            "candidates_scored": 0,
            "samples": len(samples),
            "prompts_without_room": sum(line["response"] is None for line in picked),
            "picked_without_reward": without_reward,
        }
        return pa.Table.from_pylist(picked, RESPONSES), {**notes, **counts}


def pick(rewards: Sequence[float | None]) -> int | None:
    """Return the position of the highest finite reward, the first of equal ones; None if there is none."""
    finite = [(reward, -i) for i, reward in enumerate(rewards) if reward is not None and math.isfinite(reward)]
    return -max(finite)[1] if finite else None
