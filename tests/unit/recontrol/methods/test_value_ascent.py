"""RE-Control while decoding: the edit, its norm limit, and the released variant."""

from __future__ import annotations

import pytest
import torch
from bench.reference.control import controlled, released_ascent

from rebend.config.controls import CONTROLS
from rebend.config.decoding import Decoding
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.generate import decode, generate
from rebend.generation.requests import make_requests
from rebend.io.chunks import ChunkStore
from rebend.recontrol.methods.random_direction import RandomDirection
from rebend.recontrol.methods.stepwise_ascent import stepwise_ascent
from rebend.recontrol.methods.value_ascent import ValueAscent, make
from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.network import Shape, new_network, save_value
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


@pytest.mark.parametrize(("step_size", "n_steps", "same"), [(1.0, 50, True), (20.0, 30, False)])
def test_only_the_corrected_variant_bounds_a_move(step_size, n_steps, same, capsys):
    policy, net = make_policy(), network(3, 3.0)
    rows, decoding = prompt_rows(), Decoding(max_new_tokens=12)
    with controlled(policy.model, net, step_size, n_steps, whole=True):
        reference = [r.token_ids for r in generate(policy, PROMPTS, decoding)]
    released = ValueAscent(net, step_size, n_steps, "released_code")
    assert [r.token_ids for r in generate(policy, PROMPTS, decoding, control=released)] == reference
    _, notes = decode(policy, rows, decoding, released, ChunkStore(None))
    assert (notes["norm_limit"], notes["tokens_clipped"]) == (None, 0)
    corrected = ValueAscent(net, step_size, n_steps)
    capsys.readouterr()
    table, notes = decode(policy, rows, decoding, corrected, ChunkStore(None))
    assert notes["norm_limit"] == 10.0
    if not same:
        assert notes["tokens_clipped"] > notes["tokens"] / 2
        assert "the control was clipped at" in capsys.readouterr().err
        assert [r.token_ids for r in generate(policy, PROMPTS, decoding, control=corrected)] != reference
    norms = [row["edit_norm"] for row in table.to_pylist()]
    longest = [row["edit_norm"] for row in decode(policy, rows, decoding, released, ChunkStore(None))[0].to_pylist()]
    assert max(norms) <= max(longest) and (same or max(longest) > 5 * max(norms))
    assert RandomDirection(net, 1.0, 2, "released_code").norm_limit == released.norm_limit > corrected.norm_limit


@pytest.mark.parametrize("n_layers", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_the_steps_one_by_one(n_layers, dtype):
    net, start = network(n_layers, 3.0), states()
    half = network(n_layers, 3.0).to(dtype)
    expected = released_ascent(half, start.to(dtype), 0.5, 30)
    found = stepwise_ascent(half, start.to(dtype), 0.5, 30)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-3)
    exact = ValueAscent(net, 0.5, 30).ascend(start)
    assert (found.float() - exact).norm() / (exact - start).norm() > 1e-4  # the closed form is another number


def test_the_released_variant_has_network_and_state_in_the_models_type(tmp_path):
    net = network(3, 3.0)
    save_value(tmp_path, net, {"fingerprint": "fingerprint-0"})
    for dtype, variant, expected in (
        (torch.bfloat16, "released_code", torch.bfloat16),
        (torch.bfloat16, "corrected", torch.float32),
        (torch.float32, "released_code", torch.float32),
    ):
        policy = make_policy(dtype=dtype)
        resources = ControlResources(policy, {"value_model": str(tmp_path)}, None, "")
        settings = {"method": "value", "value_model": "v", "step_size": 0.5, "n_steps": 30, "variant": variant}
        control = make(CONTROLS["value"].block.model_validate(settings), resources)
        assert control.network.first.weight.dtype == expected
        found = control.ascend(states().to(dtype).float())
        assert found.dtype == torch.float32
        if expected != torch.float32:
            assert torch.equal(found, found.to(expected).float())
