"""Methods that RepBend is compared with, as its authors ran them: circuit breakers, RMU and DPO."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from types import SimpleNamespace
from typing import Any

import parity_ours as ours
import torch
from parity_code import stand_in
from parity_item import Sides, item, items
from parity_repbend import LAYERS, NO_COLLECTION, NORMS, WIDTH, Engine, adapted, answered, gradients, padded, texts
from torch import Tensor
from torch.nn import functional

PADDING = [("without padding", True), ("of many lengths", False)]


def group_of_two(same_length: bool) -> tuple[ours.TrainingExamples, ours.StepExamples]:
    """Return training examples and a group; retain texts have 12 tokens each, or many lengths."""
    drawn = texts(8)
    if same_length:

        def long(row: ours.TrainingExample) -> ours.TrainingExample:
            prompt = (row.tokens * 12)[: min(row.n_prompt, 6)]
            return answered(ours.TrainingExample(row.row_id, prompt, len(prompt)), 12 - len(prompt))

        drawn = ours.TrainingExamples(
            [long(row) for row in drawn.safe],
            [long(row) for row in drawn.unsafe],
            [(long(safe), long(unsafe)) for safe, unsafe in drawn.pairs],
            [answered(ours.TrainingExample(row.row_id, [], 0), 12) for row in drawn.retain],
            {},
        )
    return drawn, drawn.step(0, 2, 0)


def released_batch(group: ours.StepExamples) -> dict[str, Tensor]:
    """Return unsafe and retain texts as the released collator gives them; no column is padding alone."""
    retain = [row.tokens for row in [*group.all_safe(), *group.retain]]
    unsafe = group.all_unsafe()
    lefts = [row.tokens[: row.n_prompt] for row in unsafe]
    rights = [row.tokens[row.n_prompt :] for row in unsafe]
    left = padded(lefts, "left", max(map(len, lefts)))
    right = padded(rights, "right", max(map(len, rights)))
    ids, mask = padded(retain, "left", max(map(len, retain)))
    both = [torch.cat(pair, 1) for pair in zip(left, right, strict=True)]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "input_ids_circuit_breaker": both[0],
        "attention_mask_circuit_breaker": both[1],
    }


@items(
    "repbend",
    PADDING,
    "Circuit breakers, step 5 of 20: loss and gradient, retain texts {0}",
    1e-5,
    "the retain term's mean also counts padding there",
)
def circuit_breakers(sides: Sides, _: str, same_length: bool) -> tuple[Any, Any]:
    """Both terms under the schedule."""
    given = {"torch": torch, "gc": NO_COLLECTION, "math": math, "cosine_similarity": functional.cosine_similarity}
    names = ["compute_loss", "get_training_progress"]
    code = sides.released.take("methods/circuit_breaker/trainer.py", names, given, NORMS)
    data, group = group_of_two(same_length)
    model = adapted()
    trainer = SimpleNamespace(current_training_step=4)
    trainer.args = SimpleNamespace(gradient_accumulation_steps=1, max_steps=20)
    trainer.get_training_progress = lambda: code.get_training_progress(trainer)
    with contextlib.redirect_stdout(io.StringIO()):
        released = code.compute_loss(trainer, Engine(model), released_batch(group), LAYERS, 10.0, 0.0, 0.0, 0.0, 0.0)
    settings = ours.circuit_breakers_settings(coefficient=10.0, target_layers=LAYERS, max_step=20)
    total = ours.baseline_loss(model, settings, data, group, step=4).total
    return [released, *gradients(released, model)], [total, *gradients(total, model)]


@item("repbend", "RMU: loss and gradient, times the width, texts without padding", 1e-5)
def rmu(sides: Sides) -> tuple[Any, Any]:
    """Both terms with one random vector; the reference is the model with an adapter of zeros."""
    layer = 2
    data, group = group_of_two(same_length=True)
    short = [answered(ours.TrainingExample(row.row_id, row.tokens[:4], 4), 8) for row in group.unsafe]
    pairs = [(safe, row) for (safe, _), row in zip(group.pairs, short, strict=True)]
    group = ours.StepExamples(group.safe, short, pairs, group.retain)
    model = adapted()
    stand_in("RMU's whole matrices", "the loss is compared on the same adapter; a step trains `down_proj` there")
    kept = {name: 0 * w if "lora_B" in name else w for name, w in copy.deepcopy(model.state_dict()).items()}
    settings = ours.rmu_settings(target_layer=layer, steering=6.5, retain_weight=3.0)
    size = model.config.hidden_size
    told = SimpleNamespace(layer_id=layer)
    vector = ours.steering_vector(size, 6.5, settings.seed).double()
    trainer = SimpleNamespace(current_training_step=0, model_weight=kept, hyperparam_args=told, control_vec=vector)
    given = {"torch": torch, "gc": NO_COLLECTION, "copy": copy}
    compute = sides.released.take("methods/rmu/trainer.py", ["compute_loss"], given).compute_loss
    with contextlib.redirect_stdout(io.StringIO()):
        released = size * compute(trainer, Engine(model), released_batch(group), 3.0)
    total = ours.baseline_loss(model, settings, data, group).total
    return [released, *gradients(released, model)], [total, *gradients(total, model)]


@items(
    "repbend",
    PADDING,
    "DPO: loss and gradient, texts {0}",
    1e-5,
    "where a column is padding alone, the script also cuts the last token of the longest text",
)
def dpo(sides: Sides, _: str, same_length: bool) -> tuple[Any, Any]:
    """Equation 7 on two pairs."""

    def to_length(tensor: Tensor, length: int, pad_value: int) -> Tensor:
        return functional.pad(tensor, (0, length - tensor.shape[1]), value=pad_value)

    data, group = group_of_two(same_length)
    model = adapted()
    prompts = [safe.tokens[: safe.n_prompt] for safe, _ in group.pairs]
    answers = [[row.tokens[row.n_prompt :] for row in side] for side in zip(*group.pairs, strict=True)]
    width = WIDTH if not same_length else 0
    parts = [
        padded(prompts, "left", width or max(map(len, prompts))),
        *(padded(side, "right", width or max(map(len, side))) for side in answers),
    ]
    names = ("prompt", "chosen", "rejected")
    batch = {f"{name}_input_ids": part[0] for name, part in zip(names, parts, strict=True)}
    batch |= {f"{name}_attention_mask": part[1] for name, part in zip(names, parts, strict=True)}
    stand_in("`trl.trainer.utils.pad_to_length`", "a function of ours that pads on the right")
    given = {"torch": torch, "F": functional, "pad_to_length": to_length}
    names_of = ["concatenated_inputs", "concatenated_forward", "compute_loss"]
    compute = sides.released.take("methods/DPO/trainer.py", names_of, given).compute_loss
    trainer = SimpleNamespace(current_training_step=0, hyperparam_args=SimpleNamespace(loss_beta=0.1))
    trainer.tokenizer = SimpleNamespace(pad_token_id=2, model_max_length=512)
    trainer.accelerator, trainer.reference_free, trainer.label_smoothing = SimpleNamespace(device="cpu"), False, 0
    released = compute(trainer, Engine(model), batch)
    total = ours.baseline_loss(model, ours.dpo_settings(dpo_beta=0.1), data, group).total
    return [released, *gradients(released, model)], [total, *gradients(total, model)]
