from __future__ import annotations

import pytest
import torch
from bench.reference.control import controlled

from rebend.config.decoding import Decoding
from rebend.generation.generate import decode, generate, generate_batch, make_requests
from rebend.io.chunks import ChunkStore
from rebend.recontrol.methods.controls import (
    LONGEST_MOVE,
    Prompted,
    Prompting,
    RandomDirection,
    ValueAscent,
    bounded,
)
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network
from tests.helpers.small_policy import PROMPTS, make_policy, prompt_rows

D = 32


def network(n_layers: int = 3, scale: float = 1.0) -> ValueNetwork:
    made = new_network(Shape(D, 48, n_layers), seed=0).requires_grad_(False)
    for weight in made.parameters():
        weight.mul_(scale)
    return made


def states(rows: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


def test_a_climb_asks_for_no_gradient_of_weights():
    net = new_network(Shape(D, 48, 3), seed=0)  # not frozen
    ValueAscent(net, 0.1, 3).begin([0])(states(), torch.arange(5))
    assert all(weight.grad is None for weight in net.parameters())


def test_a_random_step_is_as_long_as_the_value_step_of_each_token():
    net, h, rows = network(3, 3.0), states(), torch.arange(5)
    value = ValueAscent(net, 0.1, 10).begin([0] * 5)(h, rows) - h
    random = RandomDirection(net, 0.1, 10).begin([0, 1, 2, 3, 4])(h, rows) - h
    torch.testing.assert_close(random.norm(dim=1), value.norm(dim=1), rtol=1e-4, atol=1e-5)
    cosines = torch.cosine_similarity(random, value, dim=1)
    assert cosines.abs().max() < 0.8


def test_random_directions_differ_by_token_and_do_not_depend_on_other_rows():
    control, h = RandomDirection(network(3, 3.0), 0.1, 10), states()
    together = control.begin([7, 8, 9, 10, 11])
    first = together(h, torch.arange(5))
    second = together(h[[1, 3]], torch.tensor([1, 3]))  # the other rows have ended
    alone = control.begin([8])
    torch.testing.assert_close(alone(h[1:2], torch.tensor([0])), first[1:2])
    torch.testing.assert_close(alone(h[1:2], torch.tensor([0])), second[:1])
    assert not torch.allclose(first[1:2], second[:1])  # the next token has another direction


def test_a_state_that_is_not_finite_stays_where_it_was_and_is_reported():
    before = states(3)
    after = before + 1.0
    after[1, 4] = torch.nan
    after[2, 0] = torch.inf
    result, moved, held = bounded(before, after)
    assert held.tolist() == [False, True, True]
    assert torch.equal(result[1:], before[1:])
    assert torch.equal(result[0], after[0])
    assert moved.tolist() == [pytest.approx(D**0.5), 0.0, 0.0]


def test_an_exploding_step_is_brought_back_and_reported():
    before = states(2)
    result, moved, held = bounded(before, before + torch.tensor([[0.01], [1e6]]))
    assert held.tolist() == [False, True]
    limit = LONGEST_MOVE * before[1].norm()
    torch.testing.assert_close((result[1] - before[1]).norm(), limit)
    torch.testing.assert_close(moved[1], limit)


def test_held_tokens_are_counted_while_decoding(capsys):
    policy, decoding = make_policy(), Decoding(max_new_tokens=6)
    exploding = ValueAscent(network(3, 30.0), 1e4, 30)
    for response in generate(policy, PROMPTS[:2], decoding, control=exploding):
        assert response.held == len(response.token_ids) > 0
    broken = network()
    broken.last.weight.fill_(torch.nan)
    nan = generate(policy, PROMPTS[:2], decoding, control=ValueAscent(broken, 0.1, 2))
    assert [r.token_ids for r in nan] == [r.token_ids for r in generate(policy, PROMPTS[:2], decoding)]
    assert all(response.held == len(response.token_ids) for response in nan)
    capsys.readouterr()
    _, notes = decode(policy, prompt_rows()[:2], decoding, ValueAscent(broken, 0.1, 2), ChunkStore(None))
    tokens = notes["tokens"]
    assert notes["tokens_held_back"] == tokens > 0
    assert f"WARNING: the control was held back at {tokens} of {tokens} tokens" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_published_way_lets_whole_prompts_climb_and_samples_the_same_tokens(temperature):
    policy, net, seen = make_policy(), network(3, 3.0), []
    decoding = Decoding(max_new_tokens=8, temperature=temperature)

    class Counts(ValueAscent):
        def climbed(self, states):
            seen.append(len(states))
            return super().climbed(states)

    found = {}
    for variant in ("corrected", "released_code"):
        control = Counts(net, 0.5, 30, variant)
        found[variant] = generate(policy, PROMPTS[:3], decoding, control=control), sum(seen)
        seen.clear()
    (corrected, few), (published, many) = found.values()
    assert [r.token_ids for r in published] == [r.token_ids for r in corrected]
    assert [r.token_ids for r in published] != [r.token_ids for r in generate(policy, PROMPTS[:3], decoding)]
    longest = max(len(request) for request in make_requests(policy, PROMPTS[:3]))
    assert many - few == 3 * (longest - 1)  # padding climbs as well


def test_tokens_under_control_are_those_of_the_released_loop():
    policy, net = make_policy(), network(3, 3.0)
    requests = make_requests(policy, PROMPTS)
    ours = generate_batch(policy, requests, Decoding(max_new_tokens=12), control=ValueAscent(net, 0.5, 30))
    with controlled(policy.model, net, 0.5, 30, whole=True):
        reference = generate_batch(policy, requests, Decoding(max_new_tokens=12))
    assert [r.token_ids for r in ours] == [r.token_ids for r in reference]
    assert [r.token_ids for r in ours] != [r.token_ids for r in generate(policy, PROMPTS, Decoding(max_new_tokens=12))]


def test_climbing_raises_the_value_of_what_is_decoded_from():
    policy, decoding, net = make_policy(), Decoding(max_new_tokens=8), network(3, 3.0)
    plain = generate(policy, PROMPTS, decoding)
    controlled = generate(policy, PROMPTS, decoding, control=ValueAscent(net, 0.5, 30))
    assert [r.token_ids for r in controlled] != [r.token_ids for r in plain]
    nothing = generate(policy, PROMPTS, decoding, control=ValueAscent(net, 0.0, 30))
    assert [r.token_ids for r in nothing] == [r.token_ids for r in plain]


def test_an_instruction_goes_together_with_an_ascent():
    policy, decoding, net = make_policy(), Decoding(max_new_tokens=8), network(3, 3.0)
    both = Prompted("Be kind.", ValueAscent(net, 0.5, 30))
    assert both.messages(PROMPTS[0]) == Prompting("Be kind.").messages(PROMPTS[0])
    by_hand = [Prompting("Be kind.").messages(prompt) for prompt in PROMPTS]
    together = generate(policy, PROMPTS, decoding, control=both)
    assert [r.token_ids for r in together] == [
        r.token_ids for r in generate(policy, by_hand, decoding, control=ValueAscent(net, 0.5, 30))
    ]
    assert all(response.displacement > 0 for response in together)
