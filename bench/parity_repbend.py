"""RepBend's loss: terms, total and gradients of the released trainer and of ours on the same model and texts."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import parity_ours as ours
import torch
from parity_code import Released, stand_in
from parity_item import Sides, item, items
from parity_models import llama
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional

TRAINER = "methods/rep_bending/trainer.py"
PARTS = ("_get_model_repr", "_get_model_logits", "_get_model_repr_short", "_get_org_model_repr", "_calc_loss")
NORMS = {"dtype=torch.float)": ("dtype=torch.double)", "norms in double, so that rounding hides nothing")}
WEIGHTS = {"alpha": 0.5, "beta": 0.5, "gamma": 0.1, "eps": 0.3, "eta": 0.0}
TERMS = {"safe_norm": "alpha", "unsafe_norm": "beta", "unsafe_cosine": "gamma", "retain_kl": "eps"}
NO_COLLECTION = SimpleNamespace(collect=lambda: None)  # changes nothing but the time
WIDTH, VOCABULARY, LAYERS = 24, 40, [1, 2]
MODES = {"response_all": "response_all", "request_response": "prompt_response", "request_all": "prompt_all"}
MODES |= {"response_one": "response_one"}


class Engine(nn.Module):
    """DeepSpeed's wrapper as far as the released code uses it: the model is its `module`."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        """Run the model."""
        return self.module(**inputs)

    def disable_adapter(self) -> Any:
        """Return PEFT's context without the adapter."""
        return self.module.disable_adapter()


def texts(seed: int, n: int = 2, longest: int = 14) -> ours.TrainingExamples:
    """Return `n` items of random tokens with many lengths; the prompts of all pairs differ."""
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(2, most))]

    def row(name: str, prompt: list[int]) -> ours.TrainingExample:
        return ours.TrainingExample(name, prompt + tokens(longest), len(prompt))

    prompts = [tokens(longest) for _ in range(n)]
    return ours.TrainingExamples(
        safe=[row(f"s{i}", tokens(longest)) for i in range(n)],
        unsafe=[row(f"u{i}", tokens(longest)) for i in range(n)],
        pairs=[(row(f"ps{i}", prompt), row(f"pu{i}", prompt)) for i, prompt in enumerate(prompts)],
        retain=[ours.TrainingExample(f"r{i}", tokens(2 * longest), 0) for i in range(n)],
        left_out={},
    )


def adapted() -> Any:
    """Return the model of all items of this file, with an adapter that changes the states."""
    return ours.with_adapter(llama(seed=1))


def padded(rows: Sequence[Sequence[int]], side: str, width: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, width] padded on a side, as the released data set pads them."""
    ids, mask = torch.full((len(rows), width), 2), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return ids, mask


def batch_of(step: ours.StepExamples) -> dict[str, Tensor]:
    """Return a group as the released collator gives it: prompts padded on the left, answers on the right."""
    batch: dict[str, Tensor] = {}
    groups = {
        "safe_sample": (step.safe, "safe_sample_request", "safe_sample_response"),
        "unsafe_sample": (step.unsafe, "unsafe_sample_request", "unsafe_sample_response"),
        "unsafe_request_safe_response": (
            [safe for safe, _ in step.pairs],
            "unsafe_request",
            "safe_response_for_unsafe_request",
        ),
        "unsafe_request_unsafe_response": (
            [unsafe for _, unsafe in step.pairs],
            "unsafe_request",
            "unsafe_response_for_unsafe_request",
        ),
    }
    for name, (rows, request, response) in groups.items():
        left = padded([row.tokens[: row.n_prompt] for row in rows], "left", WIDTH)
        right = padded([row.tokens[row.n_prompt :] for row in rows], "right", WIDTH)
        batch[f"ids_{request}"], batch[f"mask_{request}"] = left
        batch[f"ids_{response}"], batch[f"mask_{response}"] = right
        batch[f"ids_{name}"], batch[f"mask_{name}"] = (torch.cat(pair, 1) for pair in zip(left, right, strict=True))
    batch["ids_retain"], batch["mask_retain"] = padded([row.tokens for row in step.retain], "left", 2 * WIDTH)
    return batch


class Trainer:
    """The released loss with the state that its trainer keeps from one batch to the next."""

    def __init__(self, released: Released, loss_mode: str, alpha_mode: str, first: int = 20) -> None:
        given = {
            "torch": torch,
            "F": functional,
            "gc": NO_COLLECTION,
            "module": "hidden_states",
            "_is_peft_model": lambda model: isinstance(model, PeftModel),
        }
        stand_in("`gc.collect`", "left out of the losses: it changes nothing but the time")
        stand_in("DeepSpeed", "the released trainer reads the model as `model.module`: a wrapper with this name")
        code = released.take(TRAINER, [*PARTS, "_compute_loss"], given, NORMS)
        self.compute = code._compute_loss
        told = SimpleNamespace(is_online=False, loss_mode=loss_mode, alpha_mode=alpha_mode, paired_repr_length=20)
        self.state = SimpleNamespace(current_training_step=0, hyperparam_args=told, paired_repr_length=first)

    def loss(self, model: Any, step: ours.StepExamples, **weights: float) -> Tensor:
        """Return the loss of a group; weights that are not given are 0."""
        given = {name: weights.get(name, 0.0) for name in WEIGHTS}
        with contextlib.redirect_stdout(io.StringIO()):
            return self.compute(self.state, Engine(model), batch_of(step), LAYERS, **given)


def gradients(total: Tensor, model: Any) -> list[Tensor]:
    """Return the gradient of each adapter weight; zeros for one that the loss does not reach."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def both(sides: Sides, released_mode: str, alpha_mode: str) -> tuple[Trainer, ours.Loss, Any, ours.StepExamples]:
    """Return the released trainer, our loss, the model and the group of one loss mode."""
    data, model = texts(3), adapted()
    settings = ours.repbend_settings(loss_mode=MODES.get(released_mode, released_mode), alpha_mode=alpha_mode)
    step = data.step(0, 2, settings.seed)
    return Trainer(sides.released, released_mode, alpha_mode), ours.repbend_loss(model, settings, data), model, step


CASES = [(mode, alpha_mode) for mode in MODES for alpha_mode in ("all", "target")]


@items("repbend", CASES, "RepBend, four terms: loss mode `{0}`, alpha mode `{1}`", 1e-6)
def terms(sides: Sides, mode: str, alpha_mode: str) -> tuple[Any, Any]:
    """Each term alone, by a weight of 1."""
    trainer, found, model, step = both(sides, mode, alpha_mode)
    signs = {"beta": -1.0}
    released = [signs.get(key, 1.0) * trainer.loss(model, step, **{key: 1.0}) for key in TERMS.values()]
    return released, [found.terms[name] for name in TERMS]


@items("repbend", CASES, "RepBend, gradient of the loss: loss mode `{0}`, alpha mode `{1}`", 1e-5)
def loss_gradients(sides: Sides, mode: str, alpha_mode: str) -> tuple[Any, Any]:
    """The gradient of all adapter weights under the published weights of the terms."""
    trainer, found, model, step = both(sides, mode, alpha_mode)
    return gradients(trainer.loss(model, step, **WEIGHTS), model), gradients(found.total, model)


@item("repbend", "RepBend, KL on retain chats (temperature 2, sum over tokens)", 1e-6)
def kl(sides: Sides) -> tuple[Any, Any]:
    """The KL term alone."""
    trainer, found, model, step = both(sides, "response_all", "all")
    return trainer.loss(model, step, eps=1.0), found.terms["retain_kl"]


@item("repbend", "RepBend, cosine at the last prompt token", 1e-6)
def cosine(sides: Sides) -> tuple[Any, Any]:
    """The cosine term alone."""
    trainer, found, model, step = both(sides, "response_all", "all")
    return trainer.loss(model, step, gamma=1.0), found.terms["unsafe_cosine"]


@item("repbend", "RepBend, five steps of AdamW, two groups of two each: adapter weights", 1e-5)
def optimiser_steps(sides: Sides) -> tuple[Any, Any]:
    """The trainer with accumulation, against the released loss under torch's AdamW as DeepSpeed's run sets it."""
    data, start = texts(4, n=20), adapted()
    settings = ours.repbend_settings(batch_size=4, micro_batch=2, lr=1e-3)
    found = ours.trained(llama(seed=1), settings, data, 5, start)
    model, trainer = adapted(), Trainer(sides.released, "response_all", "all")
    model.load_state_dict(start.state_dict())
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    for number in range(5):
        for group in data.step(number, 4, settings.seed).groups(2):
            (trainer.loss(model, group, **WEIGHTS) / 2).backward()
        optimiser.step()
        optimiser.zero_grad()
    return weights, found


def second_group(sides: Sides, mode: str, lengths: Sequence[int], **weights: float) -> tuple[Any, Any]:
    """Two groups of one item each, whose paired answers have these lengths; loss and gradient of the second one."""
    drawn, model, trainer = texts(5), adapted(), Trainer(sides.released, mode, "all")
    settings = ours.repbend_settings(loss_mode=mode, eta=weights["eta"], batch_size=1)
    order = [drawn.pairs.index(drawn.step(number, 1, settings.seed).pairs[0]) for number in range(2)]
    by_place = dict(zip(order, lengths, strict=True))
    pairs = [tuple(answered(row, by_place[place]) for row in pair) for place, pair in enumerate(drawn.pairs)]
    data = ours.TrainingExamples(drawn.safe, drawn.unsafe, pairs, drawn.retain, {}, padding=2)  # type: ignore[arg-type]
    for number in range(2):
        released = trainer.loss(model, data.step(number, 1, settings.seed), **weights)
    total = ours.repbend_loss(model, settings, data, step=1).total
    return [released, *gradients(released, model)], [total, *gradients(total, model)]


def answered(row: ours.TrainingExample, length: int) -> ours.TrainingExample:
    """Return the prompt of a text with an answer of so many tokens."""
    answer = [3 + (7 * place + row.n_prompt + len(row.tokens)) % (VOCABULARY - 3) for place in range(length)]
    return ours.TrainingExample(row.row_id, row.tokens[: row.n_prompt] + answer, row.n_prompt)


LENGTHS = [(3, 9), (9, 3)]


@items(
    "repbend",
    LENGTHS,
    "RepBend, `eta`: loss and gradient of a group with paired answers of {1} tokens after one of {0}",
    1e-5,
    "",
)
def eta(sides: Sides, first: int, second: int) -> tuple[Any, Any]:
    """R of the fifth term."""
    return second_group(sides, "response_all", (first, second), **{**WEIGHTS, "eta": 0.3})


@items(
    "repbend",
    LENGTHS,
    "RepBend, `response_R`: loss and gradient of a group with paired answers of {1} tokens after one of {0}",
    1e-5,
    "",
)
def response_r(sides: Sides, first: int, second: int) -> tuple[Any, Any]:
    """The first R tokens of the answers."""
    stand_in(
        "`trainer.paired_repr_length`",
        "20 before the first batch: with `loss_mode: response_R` the released code reads it before it is set",
    )
    return second_group(sides, "response_R", (first, second), **WEIGHTS)


@item(
    "repbend",
    "RepBend, `request_last`: four terms",
    1e-6,
)
def request_last(sides: Sides) -> tuple[Any, Any]:
    """States at the last prompt token."""
    data, model = texts(3), adapted()
    settings = ours.repbend_settings(loss_mode="prompt_last")
    step, trainer = data.step(0, 2, settings.seed), Trainer(sides.released, "request_last", "all")
    found = ours.repbend_loss(model, settings, data)
    signs = {"beta": -1.0}
    released = [signs.get(key, 1.0) * trainer.loss(model, step, **{key: 1.0}) for key in TERMS.values()]
    return released, [found.terms[name] for name in TERMS]
