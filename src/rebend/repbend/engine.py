"""Engines: gradients and optimiser steps of an adapter. This one runs on one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor

from rebend.models.lora import adapter_weights

Moments = Mapping[str, Mapping[str, Tensor]]  # name of a weight -> its state in the optimiser
Compute = Callable[[PeftModel], tuple[Tensor, Tensor]]  # a loss with its graph, and values for the metrics


class Engine(Protocol):
    """An adapted model with its optimiser, on one of `ranks` processes that share the groups of a step."""

    model: PeftModel
    rank: int
    ranks: int

    def accumulate(self, compute: Compute, *, groups: int) -> Tensor:
        """Add the gradient of one group's loss, divided by the number of `groups` of the step; return the values."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the ranks' values."""
        ...

    def update(self) -> float:
        """Do the optimiser's step, clear the gradient, and return the gradient's norm.

        If the norm is no finite number, the weights may be invalid afterwards.
        """
        ...

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the whole `adapter` and `moments` on the CPU; any number of ranks can resume from them."""
        ...


class PlainEngine:
    """One process, torch's AdamW."""

    rank, ranks = 0, 1

    def __init__(self, model: PeftModel, lr: float, moments: Moments | None = None) -> None:
        self.model = model
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizer = make_optimizer(model, lr)
        for name, saved in (moments or {}).items():
            weight = self.weights[name]
            # The optimiser keeps the step count on the CPU.
            self.optimizer.state[weight] = {
                key: value.clone() if key == "step" else value.to(weight, copy=True) for key, value in saved.items()
            }

    def accumulate(self, compute: Compute, *, groups: int) -> Tensor:
        """Add the gradient of one group's share of the loss."""
        loss, values = compute(self.model)
        (loss / groups).backward()
        return values

    def total(self, values: Tensor) -> Tensor:
        """Return the argument: there is one rank."""
        return values

    def update(self) -> float:
        """Do the step, unless the gradient's norm is no finite number."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def any(self, flag: bool) -> bool:
        """Return the argument: there is one rank."""
        return flag

    def state(self) -> dict[str, Any]:
        """Return a copy of adapter and moments."""
        moments = {
            name: {key: value.detach().cpu().clone() for key, value in self.optimizer.state[weight].items()}
            for name, weight in self.weights.items()
            if weight in self.optimizer.state
        }
        return {"adapter": adapter_weights(self.model), "moments": moments}


def make_optimizer(model: PeftModel, lr: float) -> torch.optim.Optimizer:
    """Return AdamW on the adapter's weights, without weight decay, as in the released code."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
