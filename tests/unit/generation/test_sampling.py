"""Sampling with random numbers per response."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from rebend.config.decoding import Decoding
from rebend.generation.continuous_batching import generate_continuous
from rebend.generation.generate import generate
from rebend.generation.requests import make_requests
from rebend.generation.sampling import InverseSampler, row_seed, with_checkpoint
from tests.helpers.small_policy import PROMPTS, make_policy


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


ALL = ["do_sample", "temperature", "top_k", "top_p"]
UNDER_CONTROL = ["do_sample", "top_p"]  # RE-Control's released decoder resets temperature and top-k
LLAMA3, VICUNA = (
    GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9),
    GenerationConfig(temperature=0.9, top_p=0.6),
)


@pytest.mark.parametrize(
    ("checkpoint", "taken", "block", "expected"),
    [
        (LLAMA3, [], {}, (0.0, 0, 1.0)),
        (LLAMA3, ALL, {}, (0.6, 50, 0.9)),
        (LLAMA3, UNDER_CONTROL, {}, (1.0, 0, 0.9)),
        (LLAMA3, UNDER_CONTROL, {"temperature": 0.3, "top_k": 7}, (0.3, 7, 0.9)),
        (LLAMA3, ["top_p"], {"temperature": 0.3}, (0.3, 0, 0.9)),
        (VICUNA, ALL, {}, (0.0, 50, 0.6)),  # it does not sample: greedy
        (VICUNA, UNDER_CONTROL, {"temperature": 1.0}, (0.0, 0, 0.6)),
        (GenerationConfig(do_sample=True), ALL, {}, (1.0, 50, 1.0)),
    ],
)
def test_settings_of_the_checkpoint_take_the_place_of_the_blocks(checkpoint, taken, block, expected):
    used = with_checkpoint(Decoding(from_checkpoint=taken, **block), checkpoint)
    assert (used.temperature, used.top_k, used.top_p) == expected


def test_a_checkpoint_that_samples_is_decoded_as_its_settings_say():
    policy = make_policy()
    plain = Decoding(max_new_tokens=8)
    taken = plain.model_copy(update={"from_checkpoint": ALL})
    stated = plain.model_copy(update={"temperature": 0.7, "top_k": 20, "top_p": 0.8})
    policy.model.generation_config.update(do_sample=True, temperature=0.7, top_k=20, top_p=0.8)
    found, expected, greedy = ([r.token_ids for r in generate(policy, PROMPTS, d)] for d in (taken, stated, plain))
    assert found == expected != greedy
    requests = make_requests(policy, PROMPTS)
    continuous = dict(generate_continuous(policy, requests, taken))
    assert [continuous[i].token_ids for i in range(len(requests))] == expected
