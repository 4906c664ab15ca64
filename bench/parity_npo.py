"""NPO as RepBend's authors ran it: loss and gradient with and without the third term of their script."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import parity_ours as ours
import torch
from parity_code import stand_in
from parity_item import Sides, item
from parity_repbend import NO_COLLECTION, WIDTH, Engine, adapted, gradients, padded, texts
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional


def npo_sides(sides: Sides, gamma: float) -> tuple[Any, Any]:
    """Loss and gradient of NPO on answers alone: the released script has one set of safe rows, chats among them."""
    data, model = texts(6), adapted()
    group = data.step(0, 2, 0)
    step = ours.StepExamples(group.safe, group.unsafe, [], [])
    given = {"torch": torch, "F": functional, "nn": nn, "gc": NO_COLLECTION, "SFTTrainer": _Child}
    given["_is_peft_model"] = lambda model: isinstance(model, PeftModel)
    stand_in("`trl.SFTTrainer`", "a class whose `compute_loss` returns the model's own loss, as that of transformers")
    names = ["kl_loss", "get_batch_loss", "compute_loss"]
    compute = sides.released.take("methods/NPO/trainer.py", names, given).compute_loss
    trainer = _Child()
    trainer.current_training_step = 0
    trainer.hyperparam_args = SimpleNamespace(loss_alpha=1.0, loss_beta=0.1, loss_gamma=gamma)
    released = compute(trainer, Engine(model), {**labelled("safe", step.safe), **labelled("unsafe", step.unsafe)})
    settings = ours.npo_settings(npo_beta=0.1, retain_weight=1.0, kl_weight=gamma)
    total = ours.baseline_loss(model, settings, data, step).total
    return [released, *gradients(released, model)], [total, *gradients(total, model)]


class _Parent:
    """What transformers' trainer does: the model's own loss."""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False) -> Any:
        """Return the loss and the outputs."""
        outputs = model(**inputs)
        return outputs["loss"], outputs


class _Child(_Parent):
    """Stands for TRL's trainer."""

    current_training_step: int
    hyperparam_args: Any


def labelled(name: str, rows: Sequence[ours.TrainingExample]) -> dict[str, Tensor]:
    """Return answers as the released data set gives them: labels on the answers' tokens only."""
    ids, mask = padded([row.tokens for row in rows], "right", 2 * WIDTH)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        labels[number, row.n_prompt : len(row.tokens)] = ids[number, row.n_prompt : len(row.tokens)]
    return {f"{name}_input_ids": ids, f"{name}_attention_mask": mask, f"{name}_labels": labels}


@item("repbend", "NPO: loss and gradient without the KL of the released script (the paper's)", 1e-6)
def npo_paper(sides: Sides) -> tuple[Any, Any]:
    """Equation 3 and the retain loss."""
    return npo_sides(sides, gamma=0.0)


@item("repbend", "NPO: loss and gradient with the released script's KL of 0.1", 1e-6)
def npo_released(sides: Sides) -> tuple[Any, Any]:
    """The script's third term."""
    return npo_sides(sides, gamma=0.1)
