"""RE-Control while decoding: the edit, its norm limit, and the released variant."""

from __future__ import annotations

import pytest
import torch
from bench.reference.control import controlled

from rebend.config.decoding import Decoding
from rebend.generation.generate import decode, generate, generate_batch, make_requests
from rebend.io.chunks import ChunkStore
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.value_model.network import Shape, new_network
from tests.helpers.small_policy import PROMPTS, make_policy, prompt_rows
from tests.helpers.value_networks import D, network, states


def test_an_ascent_computes_no_gradient_of_weights():
    net = new_network(Shape(D, 48, 3), seed=0)  # not frozen
    ValueAscent(net, 0.1, 3).begin([0])(states(), torch.arange(5))
    assert all(weight.grad is None for weight in net.parameters())


def test_clipped_tokens_are_counted_while_decoding(capsys):
    policy, decoding = make_policy(), Decoding(max_new_tokens=6)
    exploding = ValueAscent(network(3, 30.0), 1e4, 30)
    for response in generate(policy, PROMPTS[:2], decoding, control=exploding):
        assert response.n_clipped == len(response.token_ids) > 0
    broken = network()
    broken.last.weight.fill_(torch.nan)
    nan = generate(policy, PROMPTS[:2], decoding, control=ValueAscent(broken, 0.1, 2))
    assert [r.token_ids for r in nan] == [r.token_ids for r in generate(policy, PROMPTS[:2], decoding)]
    assert all(response.n_clipped == len(response.token_ids) for response in nan)
    capsys.readouterr()
    _, notes = decode(policy, prompt_rows()[:2], decoding, ValueAscent(broken, 0.1, 2), ChunkStore(None))
    tokens = notes["tokens"]
    assert notes["tokens_clipped"] == tokens > 0
    assert f"WARNING: the control was clipped at {tokens} of {tokens} tokens" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_released_variant_edits_whole_prompts_and_samples_the_same_tokens(temperature):
    policy, net, counts = make_policy(), network(3, 3.0), []
    decoding = Decoding(max_new_tokens=8, temperature=temperature)

    class Counts(ValueAscent):
        def ascend(self, states):
            counts.append(len(states))
            return super().ascend(states)

    responses = {}
    for variant in ("corrected", "released_code"):
        control = Counts(net, 0.5, 30, variant)
        responses[variant] = generate(policy, PROMPTS[:3], decoding, control=control), sum(counts)
        counts.clear()
    (corrected, few), (released, many) = responses.values()
    assert [r.token_ids for r in released] == [r.token_ids for r in corrected]
    assert [r.token_ids for r in released] != [r.token_ids for r in generate(policy, PROMPTS[:3], decoding)]
    longest = max(len(request) for request in make_requests(policy, PROMPTS[:3]))
    assert many - few == 3 * (longest - 1)  # padding is edited too


def test_tokens_equal_those_of_the_released_loop():
    policy, net = make_policy(), network(3, 3.0)
    requests = make_requests(policy, PROMPTS)
    controlled_responses = generate_batch(
        policy, requests, Decoding(max_new_tokens=12), control=ValueAscent(net, 0.5, 30)
    )
    with controlled(policy.model, net, 0.5, 30, whole=True):
        reference = generate_batch(policy, requests, Decoding(max_new_tokens=12))
    assert [r.token_ids for r in controlled_responses] == [r.token_ids for r in reference]
    assert [r.token_ids for r in controlled_responses] != [
        r.token_ids for r in generate(policy, PROMPTS, Decoding(max_new_tokens=12))
    ]


def test_the_ascent_changes_the_responses_and_step_size_zero_does_not():
    policy, decoding, net = make_policy(), Decoding(max_new_tokens=8), network(3, 3.0)
    plain = generate(policy, PROMPTS, decoding)
    controlled = generate(policy, PROMPTS, decoding, control=ValueAscent(net, 0.5, 30))
    assert [r.token_ids for r in controlled] != [r.token_ids for r in plain]
    nothing = generate(policy, PROMPTS, decoding, control=ValueAscent(net, 0.0, 30))
    assert [r.token_ids for r in nothing] == [r.token_ids for r in plain]
