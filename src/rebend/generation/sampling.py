"""Choose the next token: greedily, or with random numbers of the response."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rebend.config.decoding import Decoding


def with_checkpoint(decoding: Decoding, checkpoint: Any) -> Decoding:
    """Return the settings with those of `from_checkpoint` from the generation settings of a checkpoint.

    What a checkpoint does not state has the library's default: no sampling, temperature 1, top-k 50, top-p 1. A
    checkpoint that does not sample decodes greedily; one that samples does so at its own temperature if that is taken
    too, else at that of `decoding`, or at 1 if that is greedy.
    """
    taken = decoding.from_checkpoint
    if not taken:
        return decoding
    defaults = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
    own = {name: default if (v := getattr(checkpoint, name)) is None else v for name, default in defaults.items()}
    changes: dict[str, Any] = {name: own[name] for name in taken if name in own}
    if "do_sample" in taken:
        changes["temperature"] = (
            changes.get("temperature", decoding.temperature or 1.0) if checkpoint.do_sample else 0.0
        )
    return decoding.model_copy(update=changes)


def row_seed(seed: int, key: str) -> int:
    """Return the seed of one response, derived from the stage's seed and the response's key."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:7])


def samplers(decoding: Decoding, seeds: Sequence[int], start: int, device: torch.device) -> list[LogitsProcessor]:
    """Return the processors from logits to one chosen token; none for greedy decoding (temperature 0)."""
    if decoding.temperature == 0:
        return []
    return [*warpers(decoding), InverseSampler(seeds, decoding.max_new_tokens, start, device)]


def warpers(decoding: Decoding) -> list[LogitsProcessor]:
    """Return the processors for temperature, top-k and top-p sampling."""
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(decoding.temperature))]
    if decoding.top_k:
        steps.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return steps


def uniform_numbers(seeds: Sequence[int], steps: int, device: torch.device) -> torch.Tensor:
    """Return random numbers [B, steps] in (0, 1], each row from its own generator on the CPU.

    A row's numbers depend on its seed only, on any device. 0 is excluded: it could choose a token of probability 0.
    """
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    return (1.0 - torch.stack(rows)).to(device)


def sample(logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return one token [B, 1] per row of logits [B, V]: the cumulative distribution inverted at `numbers` [B, 1]."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, numbers * cumulative[:, -1:])


class InverseSampler(LogitsProcessor):
    """Samples one token per row with `sample`, from numbers drawn before the first step.

    A row's sample depends on its seed and its logits only, not on the other rows.
    """

    def __init__(self, seeds: Sequence[int], steps: int, start: int, device: torch.device) -> None:
        self.numbers = uniform_numbers(seeds, steps, device)
        self.start = start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the logits [B, V] with all but the chosen token at minus infinity."""
        step = input_ids.shape[1] - self.start
        chosen = sample(scores, self.numbers[:, step, None])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
