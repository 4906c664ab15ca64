"""What an adapter minimises: from the items of a group to a loss with its named terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from peft import PeftModel
from torch import Tensor

from rebend.models.lora import reference_pass
from rebend.repbend.examples import StepRows
from rebend.repbend.forward import Probe, Seen, Wanted, keeps_packed_texts_apart, make_batches, run_pass


@dataclass(frozen=True)
class Loss:
    """A scalar with its graph, and the terms that it is made of, without weight and sign."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """When in a training a loss is computed: steps done, of how many, and items seen, this group's included."""

    step: int
    of: int
    items: int


class Objective(Protocol):
    """An adapter's loss."""

    names: tuple[str, ...]  # of the terms

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of one group of items, with gradient."""
        ...


@dataclass(frozen=True)
class Passes:
    """What the model without (`before`) and with its adapter (`after`) shows at the places of some probes."""

    causal: Any
    before: Seen | None
    after: Seen

    def both(self) -> tuple[Seen, Seen]:
        """What was shown before and after, where a reference pass was asked for."""
        assert self.before is not None
        return self.before, self.after


def run_passes(model: PeftModel, probes: Sequence[Probe], after: Wanted, before: Wanted | None = None) -> Passes:
    """Run one reference pass (adapter off, eval mode, no gradient), if `before` wants anything, and one adapted pass.

    Both see the same batches, so that places are in the same order. The adapted pass is in train mode: dropout
    is on, and activations are recomputed where the model was told so.
    """
    causal = model.get_base_model()
    batches = make_batches(probes, model.device, packed=packs(causal))
    reference = None
    if before:
        with reference_pass(model):
            reference = run_pass(causal, batches, before)
    model.train()
    return Passes(causal, reference, run_pass(causal, batches, after))


def packs(causal: Any) -> bool:
    """Whether texts may lie one behind the other in one row: flash attention then pays for each text alone.

    Not every architecture keeps them apart by their positions, so it is tried once per model.
    """
    if not str(causal.config._attn_implementation).startswith("flash"):
        return False
    if causal not in _PACKS:
        _PACKS[causal] = keeps_packed_texts_apart(causal)
    return _PACKS[causal]


_PACKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
