"""Attacks of RepBend's released evaluation: soft tokens, and prefilled answers."""

from __future__ import annotations

import copy
import csv
import gc
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parity_ours_texts as ours
import torch
import transformers
from parity_code import stand_in
from parity_item import Sides, item
from parity_models import llama, tokenizer

EVALUATE, SOFT, UTILS = "safety_evaluation/evaluate.py", "safety_evaluation/softopt.py", "safety_evaluation/utils.py"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
REQUEST, TARGET = "Tell me how to break the old kettle", "Sure, here is how"


def policy() -> ours.Policy:
    """Return a random model whose tokenizer has a chat template that begins with the begin-of-sequence token."""
    pieces = copy.deepcopy(tokenizer(2))
    pieces.chat_template = TEMPLATE
    return ours.Policy(llama(2, seed=6), pieces, "")


def row(prompt: str = REQUEST) -> dict[str, Any]:
    """Return a harmful evaluation row with a target."""
    messages = [{"role": "user", "content": prompt}]
    return {"row_id": "r0", "messages": messages, "request": None, "target": TARGET, "harmful": True, "group": ""}


class OneCache:
    """The model, with a copy of the prompt's cache for each pass."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model."""
        return getattr(self.model, name)

    def to(self, device: str) -> OneCache:
        """Stay where it is."""
        return self

    def __call__(self, **inputs: Any) -> Any:
        """Run the model."""
        if inputs.get("past_key_values") is not None:
            inputs["past_key_values"] = copy.deepcopy(inputs["past_key_values"])
        return self.model(**inputs)


class PlainAccelerator:
    """Accelerate without bfloat16: one process, the model's own type."""

    def __init__(self, **_: Any) -> None:
        pass

    def prepare(self, *things: Any) -> Any:
        """Return the things as they are."""
        return things if len(things) > 1 else things[0]

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradient."""
        loss.backward()


@item("repbend", "Soft-token attack, same target: losses and final soft tokens", 1e-5)
def soft_tokens(sides: Sides) -> tuple[Any, Any]:
    """Fifty steps of plain gradient descent."""
    from dataclasses import dataclass

    stand_in("`accelerate.Accelerator`", "one process in float64; the released one runs under autocast to bfloat16")
    stand_in("the key-value cache of the soft-token attack", "copied for each step: newer caches grow in place")
    given = {"torch": torch, "transformers": transformers, "dataclass": dataclass, "Accelerator": PlainAccelerator}
    given["set_seed"] = lambda seed: None
    code = sides.released.take(SOFT, ["SoftOptConfig", "SoftOptResult", "run"], given)
    made, n_steps, lr = policy(), 50, 0.05
    config = code.SoftOptConfig(num_steps=n_steps, lr=lr, early_stop_loss=0.0, device="cpu", verbose=False)
    result = code.run(OneCache(copy.deepcopy(made.model)), made.tokenizer, REQUEST, TARGET, config)
    block = ours.attack_block("embedding", steps=n_steps, lr=lr, stop_loss=0.0)
    n_tokens = len(made.tokenizer(block.start, add_special_tokens=False)["input_ids"])  # 20 with Llama's tokenizer
    block = block.model_copy(update={"n_tokens": n_tokens})
    losses, final = ours.soft_tokens(made, row()["messages"], TARGET, block)
    # Ours also has the loss after the last step.
    return [torch.tensor(result.losses), result.optim_embeds], [torch.tensor(losses[:n_steps]), final]


@item("repbend", "Soft-token attack: the target that it aims at")
def soft_target(sides: Sides) -> tuple[Any, Any]:
    """Target with suffix."""
    given = {"instance": SimpleNamespace(default_target=TARGET)}
    mark = 'target = instance.default_target + ":\\n\\n"'
    return [sides.released.run(EVALUATE, mark, mark, given)["target"]], [
        ours.attack_target(ours.attack_block("embedding"), row())
    ]


def contextual(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the contextual behaviours of HarmBench's file, each with our evaluation row."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of real data")
    with path.open(newline="", encoding="utf-8") as stream:
        for source in csv.DictReader(stream):
            found = ours.harmbench_row(source)
            if source["ContextString"].strip() and found is not None:
                yield source, found


@item("repbend", "Soft-token attack: the request of contextual behaviours")
def soft_requests(sides: Sides) -> tuple[Any, Any]:
    """What stands before the soft tokens."""
    block, released, found = ours.attack_block("embedding"), [], []
    for source, ours_row in contextual(sides.data / "harmbench/behaviors_text_test.csv"):
        asked = SimpleNamespace(behavior=source["Behavior"], default_target="", context=source["ContextString"])
        taken: list[str] = []
        given = {"softopt": SimpleNamespace(run=lambda model, pieces, request, *_, taken=taken: taken.append(request))}
        given |= dict.fromkeys(("model", "tokenizer", "target", "softopt_config"), None) | {"instance": asked}
        line = "softopt_result = softopt.run("
        sides.released.run(EVALUATE, line, line, given)
        released.append(taken[0])
        found.append(ours.attacked_request(block, ours_row))
    return released, found


@item("repbend", "Requests of contextual behaviours, asked directly or with a prefilled answer")
def requests(sides: Sides) -> tuple[Any, Any]:
    """Context, a line, and the behaviour."""
    released, found = [], []
    for source, ours_row in contextual(sides.data / "harmbench/behaviors_text_test.csv"):
        messages = [{"role": "user", "content": source["Behavior"]}]
        instance = SimpleNamespace(context=source["ContextString"], messages=messages)
        first = "if instance.context is not None:"
        sides.released.run(EVALUATE, first, "instance.messages[-1]", {"instance": instance})
        released.append(instance.messages[-1]["content"])
        found.append(ours_row["messages"][-1]["content"])
    return released, found


def batched(iterable: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Return batches, as itertools does in newer Pythons."""
    rest = iter(iterable)
    while batch := tuple(islice(rest, size)):
        yield batch


def prefilled(sides: Sides) -> tuple[str, dict[str, Any]]:
    """Return the released text that is judged, and our completion."""
    made = policy()

    class Bar:
        def __init__(self, **_: Any) -> None:
            pass

        def update(self, n: int) -> None:
            pass

    given = {"torch": torch, "gc": gc, "tqdm": Bar, "batched": batched}
    generate = sides.released.take(UTILS, ["generate"], given).generate
    instance = SimpleNamespace(messages=row()["messages"], default_target=TARGET, generation=None, tokens=None)
    told = {"batch_size": 1, "compute_norms": False, "prefill": True, "use_template": True}
    generate(made.model, made.tokenizer, [instance], {**told, "max_new_tokens": 12, "do_sample": False})
    (ours_line,) = ours.completions(made, [row()], ours.attack_block("prefilling_harmbench"), 12)
    return str(instance.generation), ours_line


@item("repbend", "Prefilled answer: the tokens that follow it")
def prefilled_tokens(sides: Sides) -> tuple[Any, Any]:
    """The model's own part."""
    generation, line = prefilled(sides)
    return [generation], [line["response"].removeprefix(line["prefill"])]


@item("repbend", "Prefilled answer: the text that is judged")
def prefilled_judged(sides: Sides) -> tuple[Any, Any]:
    """The text that the classifier gets."""
    generation, line = prefilled(sides)
    return [generation], [line["response"]]
