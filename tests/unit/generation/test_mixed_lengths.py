"""Prompts of very different lengths: little padding, the responses of each prompt alone, and the limit of tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rebend.config.decoding import Decoding
from rebend.generation import continuous_batching
from rebend.generation.continuous_batching import generate_continuous, supports_continuous_batching
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.generate import generate
from rebend.generation.intervention import NoControl
from rebend.generation.requests import Request
from rebend.recontrol.methods.cd_prefix import PrefixSearch
from rebend.recontrol.methods.random_direction import RandomDirection
from rebend.recontrol.methods.value_ascent import ValueAscent
from tests.helpers.small_policy import PROMPTS, make_policy
from tests.helpers.value_networks import network
from tests.helpers.windowed import ARCHITECTURES, HAS_WINDOW, windowed_policy

NOT_GROUPED = ("falcon",)  # has attention code of its own: all rows are padded to the longest
LENGTHS = [4, 90, 6, 5, 60, 9, 100, 3, 61, 7, 4, 30]


@pytest.fixture(scope="module")
def policy():
    policy = make_policy()
    policy.model.generation_config.eos_token_id = list(range(20, 330, 12))  # so that responses end at different places
    return policy


def asked() -> list[Request]:
    drawn = torch.Generator().manual_seed(0)
    return [Request(f"row{n}", torch.randint(5, 300, (n,), generator=drawn).tolist()) for n in LENGTHS]


def fields(response):
    return dataclasses.replace(response, edit_norm=round(response.edit_norm, 4), states=None)


@pytest.fixture
def widths(monkeypatch):
    """Return the widths of the groups of each step. A group costs little here: there are several, with padding."""
    seen = []
    step = continuous_batching._Decoder.step
    monkeypatch.setattr(continuous_batching, "_GROUP_COST", 40)
    monkeypatch.setattr(continuous_batching, "_ROW_PADDING", 0)
    monkeypatch.setattr(
        continuous_batching._Decoder,
        "step",
        lambda decoder, groups: (seen.append([group.width for group in groups]), step(decoder, groups)),
    )
    return seen


@pytest.mark.parametrize("batch_size", [3, 5, 12])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("control", [NoControl(), "value", "random"], ids=["plain", "value", "random"])
def test_each_response_equals_the_one_decoded_alone(policy, widths, batch_size, temperature, control):
    kinds = {"value": ValueAscent, "random": RandomDirection}
    control = kinds[control](network(2, 4.0), 0.5, 10) if isinstance(control, str) else control
    decoding = Decoding(max_new_tokens=20, batch_size=batch_size, temperature=temperature)
    found = dict(generate_continuous(policy, asked(), decoding, control=control, keep_states=True))
    for number, request in enumerate(asked()):
        (alone,) = generate_batch(policy, [request], decoding, control=control, keep_states=True)
        assert fields(found[number]) == fields(alone)
        torch.testing.assert_close(found[number].states, alone.states, rtol=1e-3, atol=1e-4)
    assert (found[0].edit_norm > 0) == (not isinstance(control, NoControl) or type(control) is not NoControl)
    assert max(map(len, widths)) > 1


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in HAS_WINDOW])
def test_every_architecture_in_groups(name, widths):
    policy = windowed_policy(name)
    assert supports_continuous_batching(policy)
    decoding = Decoding(max_new_tokens=8, batch_size=12)
    found = dict(generate_continuous(policy, asked(), decoding))
    for number, request in enumerate(asked()):
        assert fields(found[number]) == fields(generate_batch(policy, [request], decoding)[0])
    grouped = continuous_batching.supports_groups(policy.model)
    assert (max(map(len, widths)) > 1) == grouped == (name not in NOT_GROUPED)
    assert policy.model.config._attn_implementation == "sdpa"


def positions_read(policy, monkeypatch, act):
    """Return the number of positions of the passes over prompts, padding included."""
    read = []
    forward = policy.model.forward

    def counting(**inputs):
        if inputs["input_ids"].shape[1] > 1:
            read.append(inputs["input_ids"].numel())
        return forward(**inputs)

    with monkeypatch.context() as patch:
        patch.setattr(policy.model, "forward", counting)
        act()
    return sum(read)


def test_prompts_are_read_with_little_padding(policy, monkeypatch):
    monkeypatch.setattr("rebend.models.batching.batches_by_length.__defaults__", (None, 16))
    monkeypatch.setattr(continuous_batching, "_GROUP_COST", 16)
    decoding = Decoding(max_new_tokens=4, batch_size=12)
    together = positions_read(policy, monkeypatch, lambda: generate_batch(policy, asked(), decoding))
    assert together == len(LENGTHS) * max(LENGTHS)
    ours = positions_read(policy, monkeypatch, lambda: list(generate_continuous(policy, asked(), decoding)))
    assert sum(LENGTHS) <= ours < 1.15 * sum(LENGTHS)


def test_padding_counts_where_rows_cannot_be_grouped(policy, monkeypatch):
    """A model with its own attention code (Falcon) pads every row to the longest one."""
    monkeypatch.setattr(continuous_batching, "supports_groups", lambda model: False)
    decoding = Decoding(max_new_tokens=20, batch_size=12, batch_tokens=200)
    decoder = continuous_batching._Decoder(policy, asked(), decoding, NoControl(), False)
    order = sorted(range(len(LENGTHS)), key=lambda number: -LENGTHS[number])
    n = len(decoder.admitted(order, []))
    assert n == max(1, 200 // (max(LENGTHS) + 20)) < len(LENGTHS)


@pytest.mark.parametrize("most", [1, 120, 200])
def test_no_more_than_batch_tokens_are_decoded_together(policy, monkeypatch, most):
    seen = []
    step = continuous_batching._Decoder.step
    monkeypatch.setattr(
        continuous_batching._Decoder,
        "step",
        lambda decoder, groups: (
            seen.append([len(r.request) for g in groups for r in g.rows if not r.ended]),
            step(decoder, groups),
        ),
    )
    decoding = Decoding(max_new_tokens=20, batch_size=12, temperature=1.0, batch_tokens=most)
    found = dict(generate_continuous(policy, asked(), decoding))
    assert [fields(found[n]) for n in range(len(LENGTHS))] == [
        fields(generate_batch(policy, [request], decoding)[0]) for request in asked()
    ]
    assert all(len(rows) == 1 or sum(rows) + 20 * len(rows) <= most for rows in seen)
    assert max(map(len, seen)) == {1: 1, 120: 4, 200: 5}[most]


def test_a_token_search_has_fixed_batches_within_batch_tokens(policy, monkeypatch):
    search = PrefixSearch(network(2), 3.0, 4)
    assert not supports_continuous_batching(policy, search)
    sizes = []
    real = generate_batch
    monkeypatch.setattr(
        "rebend.generation.generate.generate_batch",
        lambda policy, requests, *a, **k: (
            sizes.append(sum(len(r) + 6 for r in requests)),
            real(policy, requests, *a, **k),
        )[1],
    )
    decoding = Decoding(max_new_tokens=6, batch_size=8)
    whole = generate(policy, PROMPTS, decoding, control=search)
    assert len(sizes) == 1
    cut = generate(policy, PROMPTS, decoding.model_copy(update={"batch_tokens": 100}), control=search)
    assert len(sizes) > 2 and max(sizes[1:]) <= 100
    assert [r.token_ids for r in cut] == [r.token_ids for r in whole]
