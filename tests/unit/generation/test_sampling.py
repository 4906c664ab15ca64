"""Sampling with random numbers per response."""

from __future__ import annotations

import torch

from rebend.generation.sampling import InverseSampler, row_seed


def test_shares_of_sampled_tokens_equal_their_probabilities():
    torch.manual_seed(0)
    logits = torch.randn(1, 6)
    logits[0, 2] = -torch.inf
    n = 4000
    sampler = InverseSampler([row_seed(0, str(i)) for i in range(n)], 1, 3, torch.device("cpu"))
    chosen = sampler(torch.zeros(n, 3), logits.repeat(n, 1)).argmax(-1)
    shares = torch.bincount(chosen, minlength=6) / n
    assert shares[2] == 0
    assert (shares - logits.softmax(-1)[0]).abs().max() < 0.03
