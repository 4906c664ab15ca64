"""RE-Control's value training and control: losses, states, ascent and tokens of the released scripts and of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import parity_ours as ours
import torch
from parity_code import Released, stand_in
from parity_item import Sides, item, items
from parity_models import llama, often_ending, short_prompts, tokenizer
from torch import Tensor, nn
from torch.nn import functional

TRAINING = "train_value_model.py"
DEPTHS = [(2,), (3,)]
BOTH_MISTAKES = {  # parts of lines -> what stands in their place
    ".float().argmax(dim=1, keepdim=True)": (
        ".sum(dim=1, keepdim=True) - 1",
        "for the corrected loss alone: the reward at the last token instead of the first",
    ),
    "[:, 1:][valid_mask.bool()]\n": (
        "[:, 1:][valid_mask.bool()].detach()\n",
        "for the corrected loss alone: no gradient through the next state's value",
    ),
}


def released_network(released: Released, network: ours.ValueNetwork) -> Any:
    """Return the released network with the weights of ours; its training script has three layers, decoding two."""
    three = network.shape.n_layers == 3
    file = TRAINING if three else "inference_intervention.py"
    kind = released.take(file, ["ValueFunction"], {"nn": nn, "F": functional}).ValueFunction
    made = kind(network.shape.input_size, network.shape.hidden_size, 1).to(network.first.weight.dtype)
    pairs = {"fc1": network.first, "fc2": network.middle, "fc3": network.last} if three else {}
    for name, layer in (pairs or {"fc1": network.first, "fc3": network.last}).items():
        getattr(made, name).load_state_dict(layer.state_dict())
    return made


def responses(lengths: Sequence[int], width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded states [B, T, D], rewards [B, 1] and mask [B, T] of responses of these lengths."""
    draw = torch.Generator().manual_seed(4)
    states = torch.zeros(len(lengths), max(lengths), width, dtype=torch.double)
    for row, length in enumerate(lengths):
        states[row, :length] = torch.randn(length, width, generator=draw, dtype=torch.double)
    rewards = torch.randn(len(lengths), 1, generator=draw, dtype=torch.double)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).int()
    return states, rewards, mask


def losses(sides: Sides, lengths: Sequence[int], n_layers: int, variant: str) -> tuple[Any, Any]:
    """Loss of one batch and its gradient for all weights of the network."""
    network = ours.value_network(16, 24, n_layers)
    theirs = released_network(sides.released, network)
    states, rewards, mask = responses(lengths)
    repairs = BOTH_MISTAKES if variant == "corrected" else None
    train = sides.released.take(TRAINING, ["train_epoch"], {"F": functional, "torch": torch}, repairs).train_epoch
    stand_in("the optimiser of value training", "one that does nothing, so that the gradient of one batch is left")
    idle = SimpleNamespace(zero_grad=theirs.zero_grad, step=lambda: None)
    released = train(theirs, [(states, rewards, mask)], idle, "cpu")
    parts = [states[row, : max(length, 1)] for row, length in enumerate(lengths)]  # none: the end token's state
    total = ours.value_loss(network, parts, rewards[:, 0].tolist(), variant, [not length for length in lengths])
    found = torch.autograd.grad(total, list(network.parameters()))
    return [released, *(weight.grad for weight in theirs.parameters())], [total, *found]


@items(
    "recontrol",
    [(depth, variant) for (depth,) in DEPTHS for variant in ("released_code", "corrected")],
    "Value loss and gradient: {0} layers, `variant: {1}`",
    1e-6,
)
def value_loss(sides: Sides, n_layers: int, variant: str) -> tuple[Any, Any]:
    """Responses of several lengths, one of a single token."""
    return losses(sides, (5, 1, 9, 3), n_layers, variant)


@item(
    "recontrol",
    "Value loss and gradient of a batch with an empty response",
    1e-6,
)
def empty_responses(sides: Sides) -> tuple[Any, Any]:
    """One response without tokens."""
    return losses(sides, (5, 0, 9, 3), 3, "released_code")


@items(
    "recontrol",
    DEPTHS,
    "Value training, 20 epochs of 40 responses in one batch: weights, {0} layers",
    1e-4,
)
def value_training(sides: Sides, n_layers: int) -> tuple[Any, Any]:
    """Adam at 1e-3 from the same weights, in float32; states are exact in float16."""
    states, rewards, mask = responses([1 + number % 9 for number in range(40)])
    states = states.half().float()
    start = ours.value_network(16, 24, n_layers).float()
    theirs = released_network(sides.released, start)
    train = sides.released.take(TRAINING, ["train_epoch"], {"F": functional, "torch": torch}).train_epoch
    optimiser = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    for _ in range(20):
        train(theirs, [(states, rewards.float(), mask)], optimiser, "cpu")
    parts = [row[kept] for row, kept in zip(states, mask.bool(), strict=True)]
    found = ours.trained_value_network(parts, rewards[:, 0].tolist(), 24, n_layers, 20, 1e-3)
    return list(theirs.parameters()), list(found.parameters())


def released_ascent(released: Released) -> Callable[..., Tensor]:
    """Return the statements of the released decoder between the final norm and the language model head."""
    stand_in(
        "`Intervented_LlamaModel`",
        "needs a private version of transformers: its statements after the final norm run in a hook on the final norm "
        "of transformers' own Llama",
    )

    def ascend(states: Tensor, network: Any, step_size: float, n_steps: int) -> Tensor:
        given = {"torch": torch, "hidden_states": states, "value_model": network, "lr": step_size, "epochs": n_steps}
        first, last = "hidden_states_opt = hidden_states.detach()", "hidden_states = hidden_states_opt.detach()"
        return released.run("intervented_model/llama.py", first, last, given)["hidden_states"]

    return ascend


STRENGTHS = [(depth, alpha, n) for (depth,) in DEPTHS for alpha, n in ((0.5, 1), (1.0, 30), (0.2, 200))]


@items("recontrol", STRENGTHS, "State after the ascent: {0} layers, α = {1}, n = {2}", 1e-9)
def ascent(sides: Sides, n_layers: int, step_size: float, n_steps: int) -> tuple[Any, Any]:
    """SGD on the state there, a closed form here."""
    network = ours.value_network(16, 24, n_layers, seed=2)
    states = torch.randn(40, 16, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    released = released_ascent(sides.released)(states, released_network(sides.released, network), step_size, n_steps)
    return released, ours.climbed(network, states, step_size, n_steps)


@item(
    "recontrol",
    "State after the ascent in float16, as the released decoder runs it: 2 layers, α = 1, n = 30",
    1e-6,
)
def half_precision(sides: Sides) -> tuple[Any, Any]:
    """The type of the network while decoding."""
    network = ours.value_network(16, 24, 2, seed=2)
    states = torch.randn(40, 16, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    theirs = released_network(sides.released, network).half()
    released = released_ascent(sides.released)(states.half(), theirs, 1.0, 30)
    return released, ours.climbed(network.half(), states.half(), 1.0, 30)


# --- decoding -----------------------------------------------------------------------------------------------------

N_PROMPTS, N_TOKENS = 12, 24


def prompts(end: int) -> list[list[int]]:
    """Return the token ids of some prompts, with the begin-of-sequence token."""
    return [tokenizer(end)(text)["input_ids"] for text in short_prompts(N_PROMPTS)]


def policy(end: int) -> ours.Policy:
    """Return a random model whose responses have many lengths."""
    return ours.Policy(often_ending(llama(end, seed=3), end, 2.0), tokenizer(end), "")


@contextmanager
def after_last_norm(model: Any, ascend: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the released ascent acts on the output of the model's final norm, at all positions."""
    hook = model.model.norm.register_forward_hook(lambda module, inputs, output: ascend(output))
    try:
        yield
    finally:
        hook.remove()


def until_end(ids: list[int], end: int) -> list[int]:
    """Return the tokens before the end token."""
    return ids[: ids.index(end)] if end in ids else ids


CONTROLS = [(depth, alpha, n) for (depth,) in DEPTHS for alpha, n in ((1.0, 50), (0.2, 200), (20.0, 30), (0.5, 30))]


@items(
    "recontrol",
    CONTROLS,
    "Tokens under control, `variant: released_code`: {0} layers, α = {1}, n = {2}",
    0.0,
)
def controlled(sides: Sides, n_layers: int, step_size: float, n_steps: int) -> tuple[Any, Any]:
    """Greedy responses to left-padded prompts."""
    end, asked = 2, prompts(2)
    made = policy(end)
    made.model.float()
    network = ours.value_network(made.hidden_size, 24, n_layers, seed=2).float()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3.0)
    theirs, climb = released_network(sides.released, network), released_ascent(sides.released)
    encoded = tokenizer(end).pad({"input_ids": asked}, return_tensors="pt")
    with after_last_norm(made.model, lambda states: climb(states, theirs, step_size, n_steps)), torch.no_grad():
        output = made.model.generate(**encoded, max_new_tokens=N_TOKENS, do_sample=False)
    released = [until_end(row, end) for row in output[:, encoded["input_ids"].shape[1] :].tolist()]
    return released, ours.controlled_tokens(made, asked, N_TOKENS, network, step_size, n_steps)


def released_states(sides: Sides, name: str, end: int) -> list[Tensor]:
    """Return the states that the released script keeps for training, of each response [T, D]."""
    made, asked = policy(end), prompts(end)
    given = {"torch": torch, "F": functional, "tqdm": lambda rows: rows}
    names = ["process_hidden_states", "get_llm_activations"]
    short = {"max_new_tokens=128": (f"max_new_tokens={N_TOKENS}", f"{N_TOKENS} new tokens for 128")}
    collect = sides.released.take("get_activations_only.py", names, given, short).get_llm_activations
    batch = tokenizer(end).pad({"input_ids": asked}, return_tensors="pt")
    states, mask, _ = collect(name, made.model, [batch], tokenizer(end), "cpu", 1)
    return [row[kept] for row, kept in zip(states, mask.bool(), strict=True)]


@items(
    "recontrol",
    [("falcon_7B", 11, "Llama 3's and Falcon's"), ("vicuna_7B", 2, "Vicuna's")],
    "Stored states, {2} mask: number of states per response",
    0.0,
    "a token 0 in prompt or response counts as padding there",
)
def stored_counts(sides: Sides, name: str, end: int, whose: str) -> tuple[Any, Any]:
    """The mask of the states that are kept."""
    found = ours.stored_states(policy(end), prompts(end), N_TOKENS, name)
    return [str(len(one)) for one in released_states(sides, name, end)], [str(len(one)) for one in found]


@items(
    "recontrol",
    [("falcon_7B", 11, "Llama 3's and Falcon's"), ("vicuna_7B", 2, "Vicuna's")],
    "Stored states, {2} mask: values where both keep one",
    1e-5,
)
def stored_values(sides: Sides, name: str, end: int, whose: str) -> tuple[Any, Any]:
    """The states themselves."""
    released, found = released_states(sides, name, end), ours.stored_states(policy(end), prompts(end), N_TOKENS, name)
    lengths = [min(len(one), len(other)) for one, other in zip(released, found, strict=True)]
    return [one[:n] for one, n in zip(released, lengths, strict=True)], [
        one[:n] for one, n in zip(found, lengths, strict=True)
    ]
