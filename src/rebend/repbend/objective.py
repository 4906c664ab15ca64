"""Objectives: from the training examples of a group to a loss with named terms.

A method that is trained subclasses `Objective` in a file of `rebend.repbend.methods`; the registry
`rebend.config.adapters.ADAPTERS` names the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from peft import PeftModel
from torch import Tensor

from rebend.config.adapters import TrainedAdapter
from rebend.errors import ModelError
from rebend.models.lora import frozen_adapter_pass, reference_pass
from rebend.repbend.examples import Reading, StepExamples, TrainingExamples
from rebend.repbend.forward import Example, HiddenStates, Layers, keeps_packed_texts_apart, make_batches, run_pass

REINFORCED = "reinforced"  # name of a second, frozen adapter
Settings = TypeVar("Settings", bound=TrainedAdapter)


@dataclass(frozen=True)
class Loss:
    """A scalar with its graph, and its terms, without weight and sign."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class StepInfo:
    """Progress of a training when a loss is computed."""

    step: int  # finished steps
    n_steps: int  # steps of the whole training
    n_items: int  # items up to and with this group


class Objective(ABC, Generic[Settings]):
    """The loss of one method."""

    term_names: ClassVar[tuple[str, ...]] = ("change", "retain")
    trains_end_of_turn: ClassVar[bool] = False
    """Whether the method trains the token that ends an answer's turn; needed where it learns likelihoods."""

    def __init__(self, settings: Settings, examples: TrainingExamples, n_layers: int) -> None:
        self.settings = settings
        self.examples = examples
        self.n_layers = n_layers

    @classmethod
    def reading(cls, settings: Settings) -> Reading:
        """Return how the method reads the rows of its data sets."""
        return Reading(end_of_turn=cls.trains_end_of_turn)

    @abstractmethod
    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of one group of items, with gradient."""


@dataclass(frozen=True)
class Passes:
    """Hidden states without adapter (`reference`) and with it (`adapted`), of the same examples."""

    causal: Any  # the causal language model with its adapter inside
    reference: HiddenStates  # empty if no reference pass was run
    adapted: HiddenStates


def run_passes(
    model: PeftModel, examples: Sequence[Example], adapted: Layers, reference: Layers | None = None
) -> Passes:
    """Run one pass without the adapter, if `reference` names layers, and one pass with it.

    Both passes use the same batches, so their positions have the same order. The reference pass runs in eval mode
    without gradient. The adapted pass runs in train mode: with dropout, and with gradient checkpointing if it is on.
    """
    causal = model.get_base_model()
    _refuse_padding_with_flash_attention(examples, causal)
    batches = make_batches(examples, model.device, packed=packs(causal))
    reference_states = HiddenStates({}, {})
    if reference:
        with reference_pass(model):
            reference_states = run_pass(causal, batches, reference)
    model.train()
    return Passes(causal, reference_states, run_pass(causal, batches, adapted))


def run_reinforced_pass(model: PeftModel, examples: Sequence[Example], layers: Layers) -> HiddenStates:
    """Return the states of the frozen adapter, with the batches and the order of `run_passes` on the same examples."""
    causal = model.get_base_model()
    with frozen_adapter_pass(model, REINFORCED):
        return run_pass(causal, make_batches(examples, model.device, packed=packs(causal)), layers)


def _refuse_padding_with_flash_attention(examples: Sequence[Example], causal: Any) -> None:
    """Raise `ModelError` if states of padding are read, which flash attention does not compute."""
    if _flash(causal) and any(example.n_padding for example in examples):
        raise ModelError(
            "loss_mode response_R with variant released_code reads the states of padding, which flash attention does "
            "not compute: set variant to corrected, or uninstall flash-attn"
        )


def _flash(causal: Any) -> bool:
    return str(causal.config._attn_implementation).startswith("flash")


def packs(causal: Any) -> bool:
    """Return whether texts may be packed into one row: flash attention then computes no padding.

    Some architectures do not separate packed texts by their position ids, so this is tested once per model.
    """
    if not _flash(causal):
        return False
    if causal not in _PACKS:
        _PACKS[causal] = keeps_packed_texts_apart(causal)
    return _PACKS[causal]


_PACKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
