"""Continuous batching: the same responses as in fixed batches, in fewer steps."""

from __future__ import annotations

import pytest
import torch

from rebend.config.decoding import Decoding
from rebend.generation import continuous_batching
from rebend.generation.continuous_batching import generate_continuous, supports_continuous_batching
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.requests import Request, make_requests
from rebend.generation.row_group import RowGroup
from tests.helpers.small_policy import make_policy, prompt_rows


@pytest.fixture(scope="module")
def policy():
    policy = make_policy()
    policy.model.generation_config.eos_token_id = list(range(20, 330, 12))  # so that responses end at different places
    return policy


def requests_of(policy, samples=3):
    encoded = make_requests(policy, [row["messages"] for row in prompt_rows()])
    return [Request(f"row{i}/{s}", request.prompt_ids) for i, request in enumerate(encoded) for s in range(samples)]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
        {},
        {"temperature": 1.0, "stop": ["e", "w"]},
    ],
)
def test_each_response_equals_the_one_decoded_alone(policy, batch_size, changes):
    requests = requests_of(policy)
    decoding = Decoding(max_new_tokens=25, batch_size=batch_size, **changes)
    responses = dict(generate_continuous(policy, requests, decoding, keep_states=True))
    assert sorted(responses) == list(range(len(requests)))
    lengths = set()
    for number, request in enumerate(requests):
        (alone,) = generate_batch(policy, [request], decoding, keep_states=True)
        batched = responses[number]
        assert (batched.text, batched.token_ids, batched.finish) == (alone.text, alone.token_ids, alone.finish)
        assert batched.end_token == alone.end_token
        torch.testing.assert_close(batched.states, alone.states, rtol=1e-4, atol=1e-4)
        lengths.add(len(alone.token_ids))
    assert len(lengths) > 2


def test_ended_rows_are_refilled_and_the_batch_size_is_never_exceeded(policy, monkeypatch):
    shapes = []
    forward = policy.model.forward

    def recording(**inputs):
        shapes.append(inputs["input_ids"].shape)
        return forward(**inputs)

    monkeypatch.setattr(policy.model, "forward", recording)
    decoding = Decoding(max_new_tokens=25, temperature=1.0, batch_size=6)
    responses = list(generate_continuous(policy, requests_of(policy), decoding))
    assert len(responses) == 24
    assert max(shape[0] for shape in shapes) <= 6
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert len(prefills) > 4  # refilled before all rows of a batch have ended
    tokens = sum(len(response.token_ids) + 1 for _, response in responses)
    steps = sum(shape[0] for shape in shapes if shape[1] == 1)
    assert steps < 1.4 * tokens
    assert [response.states for _, response in responses] == [None] * 24


def test_a_model_with_a_sliding_window_is_not_supported(policy, monkeypatch):
    assert supports_continuous_batching(policy)
    monkeypatch.setattr(policy.model.config, "sliding_window", 16, raising=False)
    assert not supports_continuous_batching(policy)


def test_alive_rows_are_not_copied_when_others_are_replaced(policy, monkeypatch):
    same_buffers = []
    refilled = RowGroup.refilled

    def recording(batch, new):
        before = [layer.buffers[0].data_ptr() for layer in batch.cache.layers]
        after = refilled(batch, new)
        same_buffers.append(after is new or before == [layer.buffers[0].data_ptr() for layer in after.cache.layers])
        return after

    monkeypatch.setattr(RowGroup, "refilled", recording)
    list(generate_continuous(policy, requests_of(policy), Decoding(max_new_tokens=25, temperature=1.0, batch_size=6)))
    assert len(same_buffers) > 4
    assert all(same_buffers)


def test_no_requests_give_no_responses(policy):
    assert list(generate_continuous(policy, [], Decoding(max_new_tokens=5))) == []


@pytest.mark.parametrize("positions", [1, 100])
def test_prompts_read_in_several_passes_give_the_same_responses(policy, monkeypatch, positions):
    decoding = Decoding(max_new_tokens=25, temperature=1.0, batch_size=7)
    whole = dict(generate_continuous(policy, requests_of(policy), decoding))
    monkeypatch.setattr(continuous_batching, "_POSITIONS", positions)
    assert dict(generate_continuous(policy, requests_of(policy), decoding)) == whole
