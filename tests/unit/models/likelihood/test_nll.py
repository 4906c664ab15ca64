"""Negative log-likelihoods of given tokens: slices, batches of limited size, and what is in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rebend.models import log_probs
from rebend.models.likelihood import nll
from rebend.models.likelihood.nll import ScoredText, total_nlls
from tests.helpers.plain_likelihood import WITH_BOS, random_policy

TEXTS = [ScoredText(list(range(5, 5 + n)), list(range(first, n))) for n, first in ((9, 1), (3, 2), (30, 12), (7, 7))]


def by_hand(policy: Any, text: ScoredText) -> float:
    with torch.no_grad():
        logps = policy.model(torch.tensor([text.tokens])).logits[0].double().log_softmax(-1)
    return -sum(float(logps[place - 1, text.tokens[place]]) for place in text.scored)


@pytest.mark.parametrize("slice_elements", [2**22, 700])
def test_totals_equal_those_by_hand_whatever_the_slices(slice_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "SLICE_ELEMENTS", slice_elements)
    policy = random_policy(WITH_BOS)
    assert total_nlls(policy, TEXTS) == pytest.approx([by_hand(policy, text) for text in TEXTS], rel=1e-5)
    assert total_nlls(policy, []) == []


def test_neither_batches_nor_logits_exceed_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = random_policy(WITH_BOS)
    monkeypatch.setattr(nll, "BATCH_TOKENS", 64)
    monkeypatch.setattr(log_probs, "SLICE_ELEMENTS", 8 * policy.model.config.vocab_size)
    inputs: list[int] = []
    logits: list[int] = []
    body = policy.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    head = policy.model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output[0].numel()))
    try:
        total_nlls(policy, TEXTS)
    finally:
        body.remove()
        head.remove()
    assert len(inputs) >= 2 and max(logits) <= 8 * policy.model.config.vocab_size
    assert max(inputs) <= 64


def test_context_of_a_model() -> None:
    assert random_policy(WITH_BOS, context=64).context == 64
