"""Token search: the likeliest next tokens get the logits log p + w · score; all other tokens are excluded.

The score predicts the reward of the response with the candidate. `controlled_decoding.py` and `cd_prefix.py` have the
scorers, both as in RE-Control's table (arXiv:2406.05954, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from transformers import DynamicCache, LogitsProcessor

from rebend.config.controls import SearchBlock
from rebend.generation.intervention import Control, NoControl
from rebend.recontrol.resources import ControlResources

ScoringModel = TypeVar("ScoringModel")


def search_control(
    kind: Callable[[ScoringModel, float, int], Control],
    load: Callable[[str, ControlResources], ScoringModel],
    block: SearchBlock,
    resources: ControlResources,
) -> Control:
    """Return a control of class `kind` with the block's weight and number of candidates; no control if the weight is 0.

    `load` returns the model that scores the candidates.
    """
    if not float(block.weight):
        return NoControl()
    return kind(load(block.method, resources), float(block.weight), block.top_k)


class CandidateScorer(Protocol):
    """Scores candidate tokens."""

    def __call__(self, input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return scores [B, K] of candidates [B, K] after `input_ids` [B, T], whose newest state is `newest` [B, D]."""
        ...


class TokenSearch(LogitsProcessor):
    """Re-weights the `top_k` likeliest tokens. The decoding loop sets `newest` before each step."""

    def __init__(self, scorer: CandidateScorer, cache: DynamicCache, weight: float, top_k: int) -> None:
        self.scorer, self.cache, self.weight, self.top_k = scorer, cache, weight, top_k
        self.newest = torch.zeros(0, 0)
        self.not_finite: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return logits [B, V], minus infinity outside the candidates.

        A row with a non-finite score keeps its log-probabilities and counts as clipped.
        """
        log_probs, candidates = scores.float().log_softmax(-1).topk(min(self.top_k, scores.shape[-1]))
        candidate_scores = self.scorer(input_ids, candidates, self.newest)
        not_finite = ~torch.isfinite(candidate_scores).all(dim=1)
        self.not_finite.append(not_finite)
        logits = log_probs + self.weight * torch.where(not_finite[:, None], 0.0, candidate_scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, candidates, logits.to(scores.dtype))

    def clipped(self) -> torch.Tensor:
        """Return the steps [B, T] at which a row had a non-finite score, on the CPU."""
        return torch.stack(self.not_finite, 1).cpu()
