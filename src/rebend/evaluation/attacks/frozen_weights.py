"""Turn off the gradients of a model's weights while an attack differentiates with respect to its input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def frozen_weights(model: Any) -> Iterator[None]:
    """Set `requires_grad` of all weights to False inside the block, so that autograd stores nothing for them."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trainable:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trainable:
            weight.requires_grad_(True)
