"""From the method of a block to its objective."""

from __future__ import annotations

from rebend.config.adapters import (
    CircuitBreakersBlock,
    DpoBlock,
    NpoBlock,
    RepBendBlock,
    RmuBlock,
    SftBlock,
    TrainedAdapter,
)
from rebend.models.layers import target_indices
from rebend.repbend.examples import TrainingExamples
from rebend.repbend.methods.baselines import CircuitBreakers, Dpo, Npo, Rmu, Sft
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.objective import Objective

_BASELINES = {
    CircuitBreakersBlock: CircuitBreakers,
    RmuBlock: Rmu,
    NpoBlock: Npo,
    DpoBlock: Dpo,
    SftBlock: Sft,
}


def make_objective(settings: TrainedAdapter, data: TrainingExamples, n_layers: int) -> Objective:
    """Return what a block minimises. Raises `ConfigError` for target layers that the model lacks."""
    if isinstance(settings, RepBendBlock):
        return RepBend(settings, data, n_layers)
    last = settings.last_target()
    if last is not None:
        target_indices(last, 1, n_layers)
    return _BASELINES[type(settings)](settings, n_layers)
