"""What held-out pairs say about a reward model: its accuracy with an interval, and how much of it is length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rebend.models.batching import batches_by_length
from rebend.models.rewards.pairs import Pair
from rebend.models.tiny_model import pad_right

_Z = 1.959964  # of a 95 % interval


def rewards(model: Any, encoded: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the rewards [B] of token ids, from the state at the last token of each.

    Padded on the right without an attention mask: a token depends only on tokens to its left. The head of the language
    model is never applied, so that no logits [B, T, V] are made.
    """
    return model.score(last_states(model, encoded)).squeeze(-1)


def last_states(model: Any, encoded: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the state after the final norm at the last token of each text, [B, D]."""
    tokens = pad_right(encoded, model.config.pad_token_id).to(model.device)
    states = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    last = torch.tensor([len(text) - 1 for text in encoded])
    return states[torch.arange(len(encoded)), last]


def pair_rewards(model: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """Return the rewards [N, 2] of the chosen and the rejected conversations, in one forward pass."""
    return rewards(model, [text for pair in pairs for text in (pair.chosen, pair.rejected)]).view(-1, 2)


@torch.no_grad()
def differences(
    rewards_of: Callable[[Sequence[Pair]], torch.Tensor], pairs: Sequence[Pair], batch_size: int = 64
) -> np.ndarray:
    """Return r(chosen) - r(rejected) of each pair, [N] float64, from `rewards_of` (`batch_size` pairs → [B, 2])."""
    found = np.zeros(len(pairs))
    for batch in batches_by_length([pair.length for pair in pairs], batch_size):
        chosen, rejected = rewards_of([pairs[number] for number in batch]).T
        found[batch] = (chosen - rejected).double().cpu().numpy()
    return found


def mean_loss(found: np.ndarray) -> float:
    """Return the mean of -log σ(difference) over differences [N]."""
    return float(np.logaddexp(0.0, -found).mean())


def accuracy(found: np.ndarray) -> float:
    """Return the share of differences [N] above zero; zero counts as one half."""
    return float(((found > 0) + 0.5 * (found == 0)).mean())


def held_out_facts(found: np.ndarray, longer_by: Sequence[int]) -> dict[str, Any]:
    """Return accuracy and length bias for the record, from the differences [N] and the length differences [N].

    `held_out_accuracy_interval` is Wilson's 95 % interval. `held_out_at_chance` is true if it does not lie above 0.5.
    `held_out_longer_wins` is the accuracy of the rule that the longer answer is better, `held_out_length_correlation`
    Pearson's correlation of both differences (None if one is constant). The accuracies on pairs whose rejected answer
    is longer, and is shorter, come with the number of such pairs.
    """
    longer = np.asarray(longer_by, dtype=float)
    low, high = wilson(accuracy(found), len(found))
    varied = len(found) > 1 and np.ptp(found) > 0 and np.ptp(longer) > 0
    return {
        "held_out_pairs": len(found),
        "held_out_accuracy": round(accuracy(found), 4),
        "held_out_accuracy_interval": [round(low, 4), round(high, 4)],
        "held_out_at_chance": low <= 0.5,
        "held_out_longer_wins": round(accuracy(longer), 4),
        "held_out_length_correlation": round(float(np.corrcoef(found, longer)[0, 1]), 4) if varied else None,
        "held_out_accuracy_rejected_longer": _of_part(found[longer < 0]),
        "held_out_accuracy_rejected_shorter": _of_part(found[longer > 0]),
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `n` pairs (Wilson 1927); a tie may count as half a pair."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _of_part(found: np.ndarray) -> dict[str, float | int | None]:
    return {"accuracy": round(accuracy(found), 4) if len(found) else None, "pairs": len(found)}
