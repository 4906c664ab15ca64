"""Best of n: several responses are sampled, and a reward model picks one.

It costs n times the tokens, which are counted exactly, so that controls can be compared at equal compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rebend.config.controls import BestOfNBlock
from rebend.generation.generate import decode
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import RESPONSES
from rebend.models.loading import Policy
from rebend.models.rewards.model import Reward
from rebend.recontrol.methods.controls import NoControl


def best_of_n(
    policy: Policy, rows: Sequence[dict[str, Any]], block: BestOfNBlock, reward: Reward, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the response with the highest reward for each row (schema RESPONSES), and counts for the record.

    Sample i of a row is the same whatever n: it has its own random numbers. `tokens` are those of the
    responses returned, `tokens_generated` those of all samples. Of equal rewards the first is taken, and
    sample 0 where none of them could be scored; `picked_without_reward` counts such rows.
    """
    samples = [{**row, "row_id": f"{row['row_id']}/{i}"} for row in rows for i in range(block.n)]
    table, notes = decode(policy, samples, block.decoding, NoControl(), parts.within("samples"))
    made = table.to_pylist()
    rewards = reward.score(
        [row["messages"] for row in samples], [one["response"] for one in made], parts.within("rewards")
    )
    picked, blind = [], 0
    for number, row in enumerate(rows):
        own = range(number * block.n, (number + 1) * block.n)
        best = pick([rewards[i] for i in own])
        blind += best is None and made[own[0]]["response"] is not None
        picked.append({**made[own[best or 0]], "row_id": row["row_id"]})
    counts = {
        "tokens": sum(one["n_tokens"] for one in picked),
        "tokens_generated": notes["tokens"],
        "candidates_scored": 0,
        "samples": len(samples),
        "prompts_without_room": sum(one["response"] is None for one in picked),
        "picked_without_reward": blind,
    }
    return pa.Table.from_pylist(picked, RESPONSES), {**notes, **counts}


def pick(rewards: Sequence[float | None]) -> int | None:
    """Return the place of the highest reward, the first of equal ones; None if there is no number among them."""
    there = [i for i, reward in enumerate(rewards) if reward is not None and math.isfinite(reward)]
    return max(there, key=lambda i: (_known(rewards[i]), -i), default=None)


def _known(reward: float | None) -> float:
    assert reward is not None
    return reward
