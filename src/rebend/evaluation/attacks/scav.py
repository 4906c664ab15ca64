"""SCAV (arXiv:2404.12038, section 3): move hidden states until a linear probe takes the prompt for a harmless one.

A probe per decoder block, P(h) = σ(w·h + b), separates harmful from benign prompts by the state at their last token. At
each token that is read for the next one, the state of every block with a good probe moves along w by the least step
that brings P down to `probability` (p):

    h ← h + ε w / ‖w‖,   ε = (log(p / (1 - p)) - b - w·h) / ‖w‖   if P(h) > p

Later blocks and the KV cache see the moved states. The authors' released code moves states with P(h) < p too, up to p
(`variant: released_code`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rebend.config.safety import ScavBlock
from rebend.errors import DataError
from rebend.evaluation.attacks.attempts import (
    AttackResult,
    AttackSetup,
    PromptRow,
    answer_prompts,
    harmful_rows,
)
from rebend.generation.requests import has_room, make_requests
from rebend.generation.sampling import row_seed
from rebend.models.chat import dialogue_text
from rebend.models.hidden_states import last_states
from rebend.models.hooks import on_blocks
from rebend.models.layers import decoder_blocks

LEAST = 4  # examples of each class: some for the fit, some for the accuracy
_ROUNDS = 200  # of L-BFGS, for each probe


@dataclass(frozen=True)
class Probe:
    """P(h) = σ(w·h + b) for states h [D] of one block, and its accuracy on held-out examples, a rate."""

    weight: Tensor  # [D]
    bias: Tensor  # []
    accuracy: float = 1.0

    def logits(self, states: Tensor) -> Tensor:
        """Return w·h + b [...] of states [..., D]."""
        return states @ self.weight + self.bias

    def moved(self, states: Tensor, probability: float, always: bool = False) -> Tensor:
        """Return the nearest states [..., D] with P = `probability`; states below it move only if `always`."""
        excess = self.logits(states) - math.log(probability / (1 - probability))
        step = excess if always else excess.clamp(min=0)
        return states - step[..., None] * self.weight / self.weight.square().sum()


def attack(rows: Sequence[PromptRow], settings: ScavBlock, setup: AttackSetup) -> AttackResult:
    """Decode `attempts` responses per harmful prompt, with moved states at each token that a response is chosen from.

    The probes are fitted to the setup's `examples`; those that are also attacked are left out. Raises `DataError` for
    fewer than 4 harmful or benign examples. If no probe reaches `accuracy`, nothing is moved, with a warning.
    """
    harmful = harmful_rows(rows)
    attacked = {dialogue_text(row["messages"]) for row in harmful}
    examples = [row for row in setup.examples if dialogue_text(row["messages"]) not in attacked]
    probes = fitted_probes(setup, examples, settings)
    chosen = {layer: probe for layer, probe in enumerate(probes) if probe.accuracy >= settings.accuracy}
    if not chosen:
        print(
            "WARNING: scav: no probe is accurate enough, so the prompts are asked directly", file=sys.stderr, flush=True
        )
    prompts = [[row["messages"]] * settings.attempts for row in harmful]
    notes = {
        "examples": len(examples),
        "examples_left_out": len(setup.examples) - len(examples),
        "moved_blocks": list(chosen),
        "probe_accuracies": [round(probe.accuracy, 4) for probe in probes],
    }
    always = settings.variant == "released_code"
    with moved_states(setup.policy.model, chosen, settings.probability, always):
        return answer_prompts(setup, harmful, prompts, notes=notes)


def fitted_probes(setup: AttackSetup, examples: Sequence[PromptRow], settings: ScavBlock) -> list[Probe]:
    """Return a probe for each decoder block; a share of the examples of each class is held out for its accuracy."""
    requests = make_requests(setup.policy, [row["messages"] for row in examples], control=setup.control)
    fitting = [i for i, request in enumerate(requests) if has_room(setup.policy, request, setup.decoding)]
    labels = torch.tensor([bool(examples[i]["harmful"]) for i in fitting])
    held_out = torch.zeros(len(fitting), dtype=torch.bool)
    for label, name in ((True, "harmful"), (False, "benign")):
        of_class = [n for n, found in enumerate(labels.tolist()) if found is label]
        if len(of_class) < LEAST:
            raise DataError(
                f"scav: `probe_prompts` has {len(of_class)} {name} prompts that are not attacked; {LEAST} are needed"
            )
        of_class.sort(key=lambda n: row_seed(settings.seed, examples[fitting[n]]["row_id"]))
        held_out[of_class[: max(1, round(settings.held_out * len(of_class)))]] = True
    ids = [requests[i].prompt_ids for i in fitting]
    states = last_states(setup.policy, ids, setup.decoding.batch_size)
    return [_probe(states[:, layer], labels, held_out, settings.penalty) for layer in range(states.shape[1])]


def fit(states: Tensor, labels: Tensor, penalty: float) -> Probe:
    """Return the probe that minimises Σ log-loss + `penalty` ‖w‖² / 2 on states [n, D] with labels [n].

    The states are centred for the fit; the minimum is the same, because the bias has no penalty.
    """
    mean = states.mean(0)
    centred, targets = states - mean, labels.to(states.dtype)
    weight = torch.zeros(states.shape[1], dtype=states.dtype, requires_grad=True)
    bias = torch.zeros((), dtype=states.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=_ROUNDS, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        fitted = functional.binary_cross_entropy_with_logits(centred @ weight + bias, targets, reduction="sum")
        total = fitted + penalty * weight.square().sum() / 2
        total.backward()
        return total

    with torch.inference_mode(False), torch.enable_grad():
        optimiser.step(loss)
    weight, bias = weight.detach(), bias.detach()
    return Probe(weight, bias - mean @ weight)


def _probe(states: Tensor, labels: Tensor, held_out: Tensor, penalty: float) -> Probe:
    probe = fit(states[~held_out], labels[~held_out], penalty)
    right = (probe.logits(states[held_out]) > 0) == labels[held_out]
    return Probe(probe.weight, probe.bias, right.double().mean().item())


@contextmanager
def moved_states(model: Any, probes: Mapping[int, Probe], probability: float, always: bool = False) -> Iterator[None]:
    """Inside the block, move the state of each pass's last position after each block of `probes`."""
    placed: dict[int, Probe] = {}

    def move(layer: int, output: Tensor) -> Tensor:
        if layer not in placed:
            probe = probes[layer]
            placed[layer] = Probe(probe.weight.to(output.device).float(), probe.bias.to(output.device).float())
        last = placed[layer].moved(output[:, -1:].float(), probability, always)
        return torch.cat([output[:, :-1], last.to(output.dtype)], dim=1)

    with on_blocks(decoder_blocks(model), list(probes), move):
        yield
