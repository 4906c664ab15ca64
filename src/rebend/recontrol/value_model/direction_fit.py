"""Fit the fixed direction of static representation editing to hidden states and rewards.

RE-Control's baseline (arXiv:2406.05954, section 5) regresses the reward on the state after the prompt and shifts states
along the weights. The other fit, the difference of mean states, is the usual steering vector. Both read the shards in
one pass, one row group at a time, so that memory does not grow with the responses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from rebend.config.value_models import DirectionBlock
from rebend.errors import DataError
from rebend.models.layers import FINAL
from rebend.recontrol.value_model.activation_store import Activations, Group, key_of
from rebend.recontrol.value_model.labels import Labels

RIDGE = 1e-3  # of the mean variance of a state's entries: there may be fewer responses than entries


def fit_direction(activations: Activations, labels: Labels, settings: DirectionBlock) -> dict[str, Any]:
    """Return `direction` (D numbers, norm 1), the model's fingerprint, counts of responses and the `length` before.

    Raises `DataError` if fewer than two responses have a reward, if no direction separates their states, or if the
    states are not those of the final layer.
    """
    folder = activations.directory
    if activations.layer != FINAL:
        raise DataError(f"{folder}: has states of layer {activations.layer}; a direction needs final states")
    if len(labels.keys) < 2:
        raise DataError(f"{folder}: {len(labels.keys)} responses have a reward; a direction needs at least 2")
    if settings.fit == "regression":
        direction = _regression(activations, labels)
    else:
        direction = _difference(activations, labels, settings.share)
    length = float(np.linalg.norm(direction))
    if not math.isfinite(length) or length == 0.0:
        raise DataError(f"{folder}: no direction separates high rewards from low ones")
    return {
        "direction": [float(number) for number in direction / length],
        "fingerprint": activations.fingerprint,
        "responses": len(labels.keys),
        "not_scored": labels.not_scored,
        "length": length,  # norm of the difference of means, or of the weights
    }


def _difference(activations: Activations, labels: Labels, share: float) -> np.ndarray:
    """Return the mean state [D] of high-reward responses minus that of low-reward ones; each response counts once."""
    count = max(1, int(share * len(labels.keys)))
    order = np.lexsort((labels.keys, labels.rewards))
    sides = np.full(len(order), np.nan)
    sides[order[:count]], sides[order[-count:]] = 0, 1
    sums, counts = np.zeros((2, activations.hidden_size)), np.zeros(2)
    for side, states in _labelled(activations, Labels(labels.keys, sides), Group.responses):
        if len(states):  # an empty response has only the state of its end token
            sums[int(side)] += states.double().mean(dim=0).numpy()
            counts[int(side)] += 1
    if not counts.all():
        raise DataError(f"{activations.directory}: the rewards belong to other responses")
    low, high = sums / counts[:, None]
    return high - low


def _regression(activations: Activations, labels: Labels) -> np.ndarray:
    """Return the weights [D] of the ridge regression of the reward on the state of the first token."""
    size = activations.hidden_size
    products, sums, cross = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    n, total = 0, 0.0
    for reward, state in _labelled(activations, labels, Group.after_prompts):
        first = state.double().numpy()
        products += np.outer(first, first)
        sums += first
        cross += first * reward
        n, total = n + 1, total + reward
    if n < 2:
        raise DataError(f"{activations.directory}: the rewards belong to other responses")
    covariance = products / n - np.outer(sums, sums) / n**2
    ridge = RIDGE * np.trace(covariance) / size or 1.0  # if all states are equal, any ridge gives weights of 0
    return np.linalg.solve(covariance + ridge * np.eye(size), cross / n - sums / n * total / n)


def _labelled(
    activations: Activations, labels: Labels, states_of: Callable[[Group], Iterator[tuple[str, torch.Tensor]]]
) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield the label of each response with one, and what `states_of` yields for it, in the order of the shards."""
    for number in activations.groups():
        group = activations.read(number)
        rewards = labels.find(np.array([key_of(name) for name in group.response_ids], np.uint64))
        for reward, (_, states) in zip(rewards.tolist(), states_of(group), strict=True):
            if math.isfinite(reward):
                yield reward, states
