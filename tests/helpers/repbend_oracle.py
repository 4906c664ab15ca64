"""RepBend's loss once more, as slowly and plainly as it can be written: what the library is compared with.

From the paper, and for `released_code` from a description of the released code. Each row goes through the model alone,
without padding, twice (adapter off and on), with every logit and every hidden state; each term is a loop over rows,
layers and tokens in the model's own type, float64 in the tests. No code of the library is used, only its data class
for a tokenised row, so an error has to be made twice to go unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebend.repbend.examples import TrainingExample

FIRST = 20
Pair = tuple[TrainingExample, TrainingExample]  # safe and unsafe answer


@dataclass(frozen=True)
class Asked:
    """What is to be computed. Layers are indices into `hidden_states`; `pushed` those of the window."""

    mode: str
    alpha_mode: str
    variant: str
    pushed: Sequence[int]
    weights: tuple[float, float, float, float, float]  # alpha, beta, gamma, epsilon, eta
    limit: float | None = None


@dataclass(frozen=True)
class Shown:
    """What the model shows of one row: a state per layer and token, `[T][D]`, and logits `[T][V]`."""

    states: Sequence[Tensor]
    logits: Tensor


class Oracle:
    """A PEFT model and what is asked of it."""

    def __init__(self, model: Any, asked: Asked) -> None:
        self.model = model
        self.asked = asked
        self.published = asked.variant == "released_code"

    def terms(
        self,
        safe: list[TrainingExample],
        unsafe: list[TrainingExample],
        pairs: list[Pair],
        retain: list[TrainingExample],
        met: list[Pair],
    ) -> dict[str, Tensor]:
        """The five terms and the loss; `met` are all pairs of the training so far, these included."""
        prompts_only = self.asked.mode in ("prompt_all", "prompt_last", "request_all", "request_last")
        safe_rows = safe if prompts_only else safe + [pair[0] for pair in pairs]
        unsafe_rows = unsafe + [pair[1] for pair in pairs]
        first = self.first(met)
        found = {
            "safe_norm": self.change(safe_rows, self.kept(), first, None),
            "unsafe_norm": self.change(unsafe_rows, self.asked.pushed, first, self.asked.limit),
            "unsafe_cosine": self.unlikeness(unsafe_rows, first),
            "retain_kl": self.divergence(retain),
            "pair_norm": self.distance(pairs, met),
        }
        alpha, beta, gamma, epsilon, eta = self.asked.weights
        kept, pulled = alpha * found["safe_norm"] + gamma * found["unsafe_cosine"], eta * found["pair_norm"]
        found["total"] = kept + pulled + epsilon * found["retain_kl"] - beta * found["unsafe_norm"]
        return found

    def kept(self) -> list[int]:
        """Layers at which safe states are kept."""
        if self.asked.alpha_mode == "target":
            return list(self.asked.pushed)
        last = self.model.config.num_hidden_layers
        return list(range(0 if self.published else 1, last + 1))

    def first(self, met: list[Pair]) -> int:
        """R: 20, and as published never again more than the shortest paired answer that was met."""
        shortest = FIRST
        if self.published:
            for pair in met:
                for row in pair:
                    shortest = min(shortest, len(row.tokens) - row.n_prompt)
        return shortest

    def looked_at(self, row: TrainingExample, first: int) -> list[int]:
        """Positions of the target tokens."""
        found = []
        for position in range(len(row.tokens)):
            place = position - row.n_prompt  # of the answer's tokens, from 0
            if {
                "response_all": place >= 0,
                "prompt_response": True,
                "request_response": True,
                "prompt_all": place < 0,
                "request_all": place < 0,
                "prompt_last": place == -1,
                "request_last": place == -1,
                "response_R": 0 <= place < first,
                "response_one": place == 0,
            }[self.asked.mode]:
                found.append(position)
        return found

    def shown(self, row: TrainingExample, *, adapted: bool) -> Shown:
        """One row through the model, alone."""
        given = {"input_ids": torch.tensor([row.tokens]), "output_hidden_states": True, "use_cache": False}
        if adapted:
            self.model.train()
            seen = self.model(**given)
        else:
            self.model.eval()
            with torch.no_grad(), self.model.disable_adapter():
                seen = self.model(**given)
        return Shown([states[0] for states in seen.hidden_states], seen.logits[0])

    def change(self, rows: list[TrainingExample], layers: Sequence[int], first: int, limit: float | None) -> Tensor:
        """Mean length of (adapted - reference) over the target tokens of all rows and over layers."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            before, after = self.shown(row, adapted=False), self.shown(row, adapted=True)
            for layer in layers:
                for position in self.looked_at(row, first):
                    far = norm(after.states[layer][position] - before.states[layer][position])
                    total = total + (far if limit is None or far <= limit else limit)
                    count += 1
        return total / count

    def unlikeness(self, rows: list[TrainingExample], first: int) -> Tensor:
        """Mean of 1 - cosine over layers and ordered pairs of different rows."""
        shown = [self.shown(row, adapted=True) for row in rows]
        total, count = torch.zeros((), dtype=torch.float64), 0
        for layer in self.asked.pushed:
            standing = []
            for row, seen in zip(rows, shown, strict=True):
                if self.published:
                    standing.append(seen.states[layer][row.n_prompt - 1])
                else:
                    places = self.looked_at(row, first)
                    standing.append(sum(seen.states[layer][place] for place in places) / len(places))
            for i, one in enumerate(standing):
                for j, other in enumerate(standing):
                    if i != j:
                        total = total + 1 - (one * other).sum() / (norm(one) * norm(other))
                        count += 1
        return total / count

    def divergence(self, rows: list[TrainingExample]) -> Tensor:
        """KL(reference || adapted) of the next token, summed per chat, or at temperature 1 averaged over tokens."""
        temperature = 2.0 if self.published else 1.0
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            before, after = self.shown(row, adapted=False), self.shown(row, adapted=True)
            for position in range(len(row.tokens)):
                old = torch.exp(before.logits[position] / temperature)
                new = torch.exp(after.logits[position] / temperature)
                old, new = old / old.sum(), new / new.sum()
                total = total + (old * torch.log(old / new)).sum() * temperature**2
                tokens += 1
        return total / (len(rows) if self.published else tokens)

    def distance(self, pairs: list[Pair], met: list[Pair]) -> Tensor:
        """Mean length of (adapted, unsafe answer - reference, safe answer) from the last prompt token on."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for pair in pairs:
            places = self.first(met) if self.published else min(FIRST, *(len(r.tokens) - r.n_prompt for r in pair))
            goal, own = self.shown(pair[0], adapted=False), self.shown(pair[1], adapted=True)
            for layer in self.asked.pushed:
                for place in range(places):
                    there = goal.states[layer][pair[0].n_prompt - 1 + place]
                    total = total + norm(own.states[layer][pair[1].n_prompt - 1 + place] - there)
                    count += 1
        return total / count


def norm(vector: Tensor) -> Tensor:
    """Euclidean length, and a plain 0 (without the root's infinite slope) where nothing has moved."""
    square = (vector * vector).sum()
    return torch.zeros((), dtype=vector.dtype) if float(square.detach()) == 0 else torch.sqrt(square)
