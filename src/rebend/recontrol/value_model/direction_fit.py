"""A fixed direction on hidden states, fitted to rewarded responses: what static representation editing adds.

RE-Control's baseline (arXiv:2406.05954, section 5) regresses the reward on the state after the prompt and
moves along the weights; the difference of mean states is the usual steering vector. Both are read from the
shards in one pass, a row group at a time, so that memory does not grow with the responses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rebend.config.value_models import DirectionBlock
from rebend.errors import DataError
from rebend.models.layers import FINAL
from rebend.recontrol.value_model.activation_store import Activations, key_of
from rebend.recontrol.value_model.labels import Labels

RIDGE = 1e-3  # of the mean variance of a state's entries: there may be fewer responses than entries


def fit_direction(activations: Activations, labels: Labels, settings: DirectionBlock) -> dict[str, Any]:
    """Return `direction` (D numbers, of length 1) and what it was fitted to.

    Raises `DataError` if fewer than two responses have a reward, nothing tells their states apart, or the
    states are those of another layer than the one that is moved.
    """
    if activations.layer != FINAL:
        raise DataError(f"{activations.directory}: has states of layer {activations.layer}; the final ones are moved")
    if len(labels.keys) < 2:
        raise DataError(f"{activations.directory}: {len(labels.keys)} responses have a reward; a direction needs two")
    if settings.fit == "regression":
        found = _regression(activations, labels)
    else:
        found = _difference(activations, labels, settings.share)
    length = float(np.linalg.norm(found))
    if not math.isfinite(length) or length == 0.0:
        raise DataError(f"{activations.directory}: no direction tells high rewards from low ones")
    return {
        "direction": [float(number) for number in found / length],
        "fingerprint": activations.fingerprint,
        "responses": len(labels.keys),
        "not_scored": labels.not_scored,
        "length": length,  # of the difference of means, or of the weights, before it was made 1
    }


def _difference(activations: Activations, labels: Labels, share: float) -> np.ndarray:
    """Mean state of the responses with high rewards, minus that of those with low ones; each response counts once."""
    count = max(1, int(share * len(labels.keys)))
    order = np.lexsort((labels.keys, labels.rewards))
    side = np.full(len(order), np.nan)
    side[order[:count]], side[order[-count:]] = 0, 1
    sums, counts = np.zeros((2, activations.hidden_size)), np.zeros(2)
    for place, states in _labelled(activations, Labels(labels.keys, side)):
        sums[int(place)] += states.double().mean(dim=0).numpy()
        counts[int(place)] += 1
    if not counts.all():
        raise DataError(f"{activations.directory}: the rewards are those of other responses")
    low, high = sums / counts[:, None]
    return high - low


def _regression(activations: Activations, labels: Labels) -> np.ndarray:
    """Weights of the ridge regression of the reward on the state after the prompt (the first token's)."""
    size = activations.hidden_size
    products, sums, cross = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    n, total = 0, 0.0
    for reward, states in _labelled(activations, labels):
        first = states[0].double().numpy()
        products += np.outer(first, first)
        sums += first
        cross += first * reward
        n, total = n + 1, total + reward
    if n < 2:
        raise DataError(f"{activations.directory}: the rewards are those of other responses")
    covariance = products / n - np.outer(sums, sums) / n**2
    ridge = RIDGE * np.trace(covariance) / size or 1.0  # states that are all alike: any ridge gives weights of 0
    return np.linalg.solve(covariance + ridge * np.eye(size), cross / n - sums / n * total / n)


def _labelled(activations: Activations, labels: Labels) -> Iterator[tuple[float, torch.Tensor]]:
    """Label and states `[T, D]` of each response that has a label, in the order of the shards."""
    for number in activations.groups():
        group = activations.read(number)
        found = labels.find(np.array([key_of(name) for name in group.response_ids], np.uint64))
        for label, (_, states) in zip(found.tolist(), group.responses(), strict=True):
            if math.isfinite(label):
                yield label, states
