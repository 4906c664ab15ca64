"""A second, plain version of RepBend's loss, for comparison with the library.

It follows the paper, and for `released_code` a description of the released code. Each text goes through the model
alone, without padding, twice (adapter off and on), with all logits and hidden states; each term is a loop over texts,
layers and tokens in the model's type, float64 in the tests. It uses no code of the library except the data class of a
tokenised text, so a mistake in one version makes the comparison fail.
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
class OracleSettings:
    """Settings of the loss. Layers are indices into `hidden_states`; `pushed` are the target layers."""

    mode: str
    alpha_mode: str
    variant: str
    pushed: Sequence[int]
    weights: tuple[float, float, float, float, float]  # alpha, beta, gamma, epsilon, eta
    limit: float | None = None
    padding: int = 0  # token behind the texts


@dataclass(frozen=True)
class Outputs:
    """Outputs of the model for one text: a state per layer and token, `[T][D]`, and logits `[T][V]`."""

    states: Sequence[Tensor]
    logits: Tensor


class Oracle:
    """The loss of a PEFT model."""

    def __init__(self, model: Any, settings: OracleSettings) -> None:
        self.model = model
        self.settings = settings
        self.published = settings.variant == "released_code"

    def terms(
        self,
        safe: list[TrainingExample],
        unsafe: list[TrainingExample],
        pairs: list[Pair],
        retain: list[TrainingExample],
        pairs_before: list[Pair],
    ) -> dict[str, Tensor]:
        """Return the five terms and the loss; `pairs_before` are those of the group before, none for the first."""
        prompts_only = self.settings.mode in ("prompt_all", "prompt_last", "request_all", "request_last")
        safe_rows = safe if prompts_only else safe + [pair[0] for pair in pairs]
        unsafe_rows = unsafe + [pair[1] for pair in pairs]
        moved_rows = unsafe if self.published and self.settings.mode in ("prompt_last", "request_last") else unsafe_rows
        first = self.first(pairs_before)
        terms = {
            "safe_norm": self.change(safe_rows, self.kept(), first, None),
            "unsafe_norm": self.change(moved_rows, self.settings.pushed, first, self.settings.limit),
            "unsafe_cosine": self.cosine_distance(unsafe_rows, first),
            "retain_kl": self.divergence(retain),
            "pair_norm": self.distance(pairs),
        }
        alpha, beta, gamma, epsilon, eta = self.settings.weights
        kept, paired = alpha * terms["safe_norm"] + gamma * terms["unsafe_cosine"], eta * terms["pair_norm"]
        terms["total"] = kept + paired + epsilon * terms["retain_kl"] - beta * terms["unsafe_norm"]
        return terms

    def kept(self) -> list[int]:
        """Return the layers at which safe states are kept."""
        if self.settings.alpha_mode == "target":
            return list(self.settings.pushed)
        last = self.model.config.num_hidden_layers
        return list(range(0 if self.published else 1, last + 1))

    def first(self, pairs: list[Pair]) -> int:
        """Return R: 20, or for the released code the shortest answer of these pairs."""
        shortest = FIRST
        if self.published:
            for pair in pairs:
                for row in pair:
                    shortest = min(shortest, len(row.tokens) - row.n_prompt)
        return shortest

    def target_positions(self, row: TrainingExample, first: int) -> list[int]:
        """Return the positions of the target tokens."""
        positions = []
        reads_padding = self.published and self.settings.mode == "response_R"
        for position in range(max(len(row.tokens), row.n_prompt + first) if reads_padding else len(row.tokens)):
            offset = position - row.n_prompt  # 0 for the first token of the answer
            if {
                "response_all": offset >= 0,
                "prompt_response": True,
                "request_response": True,
                "prompt_all": offset < 0,
                "request_all": offset < 0,
                "prompt_last": offset == -1,
                "request_last": offset == -1,
                "response_R": 0 <= offset < first,
                "response_one": offset == 0,
            }[self.settings.mode]:
                positions.append(position)
        return positions

    def outputs(self, row: TrainingExample, *, adapted: bool) -> Outputs:
        """Return the outputs for one text alone, with twenty tokens of padding behind it if the mode reads some."""
        inputs = {"input_ids": torch.tensor([row.tokens]), "output_hidden_states": True, "use_cache": False}
        if self.published and self.settings.mode == "response_R":
            inputs["input_ids"] = torch.tensor([row.tokens + [self.settings.padding] * FIRST])
            inputs["attention_mask"] = torch.tensor([[1] * len(row.tokens) + [0] * FIRST])
        if adapted:
            self.model.train()
            output = self.model(**inputs)
        else:
            self.model.eval()
            with torch.no_grad(), self.model.disable_adapter():
                output = self.model(**inputs)
        return Outputs([states[0] for states in output.hidden_states], output.logits[0])

    def change(self, rows: list[TrainingExample], layers: Sequence[int], first: int, limit: float | None) -> Tensor:
        """Return the mean length of (adapted - reference) over the target tokens of all texts and over layers."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            before, after = self.outputs(row, adapted=False), self.outputs(row, adapted=True)
            for layer in layers:
                for position in self.target_positions(row, first):
                    distance = norm(after.states[layer][position] - before.states[layer][position])
                    total = total + (distance if limit is None or distance <= limit else limit)
                    count += 1
        return total / count

    def cosine_distance(self, rows: list[TrainingExample], first: int) -> Tensor:
        """Return the mean of 1 - cosine over layers and ordered pairs of different texts."""
        outputs = [self.outputs(row, adapted=True) for row in rows]
        total, count = torch.zeros((), dtype=torch.float64), 0
        for layer in self.settings.pushed:
            states = []
            for row, output in zip(rows, outputs, strict=True):
                if self.published:
                    states.append(output.states[layer][row.n_prompt - 1])
                else:
                    positions = self.target_positions(row, first)
                    states.append(sum(output.states[layer][p] for p in positions) / len(positions))
            for i, one in enumerate(states):
                for j, other in enumerate(states):
                    if i != j:
                        total = total + 1 - (one * other).sum() / (norm(one) * norm(other))
                        count += 1
        return total / count

    def divergence(self, rows: list[TrainingExample]) -> Tensor:
        """Return KL(reference || adapted) of the next token: a sum per chat, or (temperature 1) a mean over tokens."""
        temperature = 2.0 if self.published else 1.0
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            before, after = self.outputs(row, adapted=False), self.outputs(row, adapted=True)
            for position in range(len(row.tokens)):
                old = torch.exp(before.logits[position] / temperature)
                new = torch.exp(after.logits[position] / temperature)
                old, new = old / old.sum(), new / new.sum()
                total = total + (old * torch.log(old / new)).sum() * temperature**2
                tokens += 1
        return total / (len(rows) if self.published else tokens)

    def distance(self, pairs: list[Pair]) -> Tensor:
        """Return the mean length of (adapted unsafe answer - reference safe answer), from the last prompt token on."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for pair in pairs:
            n_tokens = self.first(pairs) if self.published else min(FIRST, *(len(r.tokens) - r.n_prompt for r in pair))
            safe, unsafe = self.outputs(pair[0], adapted=False), self.outputs(pair[1], adapted=True)
            for layer in self.settings.pushed:
                for i in range(n_tokens):
                    target = safe.states[layer][pair[0].n_prompt - 1 + i]
                    total = total + norm(unsafe.states[layer][pair[1].n_prompt - 1 + i] - target)
                    count += 1
        return total / count


def norm(vector: Tensor) -> Tensor:
    """Return the Euclidean length; for a zero vector a constant 0, because the root's slope is infinite there."""
    square = (vector * vector).sum()
    return torch.zeros((), dtype=vector.dtype) if float(square.detach()) == 0 else torch.sqrt(square)
