"""Loss of supervised fine-tuning, compared with that of transformers."""

from __future__ import annotations

import pytest
import torch

from rebend.repbend.methods.sft import sft
from tests.helpers.loss_parts import base_model


def test_sft_equals_the_mean_over_tokens_of_transformers() -> None:
    model = base_model(vocabulary=40)
    tokens = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    starts = [2, 5, 7]  # of the responses
    labels = tokens.clone()
    for line, start in enumerate(starts):
        labels[line, :start] = -100
    theirs = model(tokens, labels=labels).loss
    chances = model(tokens).logits.log_softmax(-1)
    response = torch.stack(
        [chances[n, place - 1, tokens[n, place]] for n, start in enumerate(starts) for place in range(start, 9)]
    )
    terms = sft(response, response[:4], retain_weight=0.5)
    assert float(terms.change.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    retain = -sum(response[:4].tolist()) / 4
    assert float(terms.total.detach()) == pytest.approx(float(theirs.detach()) + 0.5 * retain, rel=1e-6)
