"""Greedy decoding, value ascent and token search beyond a sliding window equal loops without a cache or padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bench.reference.control import released_ascent
from transformers import DynamicCache
from transformers.models.bloom import BloomConfig, BloomForCausalLM
from transformers.models.falcon import FalconConfig, FalconForCausalLM

from rebend.config.decoding import Decoding
from rebend.errors import ModelError
from rebend.generation.generate import generate
from rebend.generation.requests import make_requests
from rebend.models.loading import Policy
from rebend.recontrol.methods.cd_prefix import PrefixSearch
from rebend.recontrol.methods.tree_attention import TreeAttention
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.value_model.network import ValueNetwork
from tests.helpers.small_policy import PROMPTS, tokenizer
from tests.helpers.value_networks import network
from tests.helpers.windowed import ARCHITECTURES, HAS_WINDOW, SIZES, WINDOW, windowed_policy

ASKED = [PROMPTS[i] for i in (0, 1, 2)]  # of several lengths, so that rows are padded
DECODING = Decoding(max_new_tokens=8, batch_size=3)
K, WEIGHT = 4, 3.0
ENDS = (tokenizer().eos_token_id, tokenizer().pad_token_id)


def states(policy: Policy, ids: list[int]) -> torch.Tensor:
    """Return the final states [T, D] of a text, from one pass."""
    return policy.model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def logits(policy: Policy, state: torch.Tensor) -> torch.Tensor:
    """Return the logits [V] of a state [D], as the model computes them from the LM head."""
    scores = policy.model.get_output_embeddings()(state)
    cap = getattr(policy.model.config, "final_logit_softcapping", None)
    scale = getattr(policy.model.config, "logit_scale", None) or 1.0
    return torch.tanh(scores / cap) * cap if cap else scores * scale


Choose = Callable[[Policy, list[int], torch.Tensor], int]


def greedily(policy: Policy, ids: list[int], state: torch.Tensor) -> int:
    """Return the likeliest token."""
    return int(logits(policy, state).argmax())


def climbing(net: ValueNetwork) -> Choose:
    """Return the choice after ten steps on V."""
    return lambda policy, ids, state: int(logits(policy, released_ascent(net, state, 0.5, 10)).argmax())


def searching(net: ValueNetwork) -> Choose:
    """Return the choice among the K likeliest tokens by log p + w V(state after the token)."""

    def choose(policy: Policy, ids: list[int], state: torch.Tensor) -> int:
        likely, candidates = logits(policy, state).log_softmax(-1).topk(K)
        after = [state if int(c) in ENDS else states(policy, [*ids, int(c)])[-1] for c in candidates]
        return int(candidates[(likely + WEIGHT * net(torch.stack(after))).argmax()])

    return choose


@torch.no_grad()
def looped(policy: Policy, prompt: list[int], choose: Choose) -> list[int]:
    """Return the response to a prompt: every token from a pass over the whole text."""
    ids = list(prompt)
    for _ in range(DECODING.max_new_tokens):
        token = choose(policy, ids, states(policy, ids)[-1])
        if token in ENDS:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_way_of_decoding_equals_a_plain_loop(name):
    policy, net = windowed_policy(name), network(2, 4.0)
    requests = make_requests(policy, ASKED)
    assert max(len(request) for request in requests) > 2 * WINDOW
    found = {}
    for way, control, choose in (
        ("greedy", None, greedily),
        ("value", ValueAscent(net, 0.5, 10), climbing(net)),
        ("search", PrefixSearch(net, WEIGHT, K), searching(net)),
    ):
        found[way] = [response.token_ids for response in generate(policy, ASKED, DECODING, control=control)]
        assert found[way] == [looped(policy, request.prompt_ids, choose) for request in requests], way
    assert found["greedy"] != found["value"] and found["greedy"] != found["search"]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("length", [1, WINDOW + 2])
@torch.no_grad()
def test_continuations_have_the_states_of_whole_texts(name, length):
    """Continuations within the window, and longer than it (as the tail of a reward model's text may be)."""
    policy = windowed_policy(name)
    texts = [request.prompt_ids for request in make_requests(policy, ASKED)]
    longest = max(map(len, texts))
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in texts])
    padded = torch.tensor([[ENDS[1]] * (longest - len(ids)) + ids for ids in texts])
    tree = TreeAttention(policy.model, mask, DynamicCache())
    newest = tree.advance(padded)
    tokens = torch.randint(5, 300, (len(texts), 3, length), generator=torch.Generator().manual_seed(0))
    read = tree.read(tokens)
    for row, ids in enumerate(texts):
        torch.testing.assert_close(newest[row], states(policy, ids)[-1], rtol=1e-3, atol=1e-4)
        for branch in range(3):
            expected = states(policy, [*ids, *tokens[row, branch].tolist()])[-length:]
            torch.testing.assert_close(read[row, branch], expected, rtol=1e-3, atol=1e-4)
    assert (name in HAS_WINDOW) == any(window is not None for window in tree.windows.values())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (FalconForCausalLM(FalconConfig(**SIZES, alibi=True)), "ALiBi"),
        (BloomForCausalLM(BloomConfig(vocab_size=SIZES["vocab_size"], hidden_size=32, n_layer=2, n_head=4)), "ALiBi"),
    ],
)
def test_models_that_take_no_positions_are_refused(model, why):
    policy = Policy(model.eval(), tokenizer(), "x")
    with pytest.raises(ModelError, match=f"token search: .*{why}.*`value`"):
        generate(policy, ASKED, DECODING, control=PrefixSearch(network(2), WEIGHT, K))


def test_a_layer_of_another_kind_is_refused():
    policy = windowed_policy("qwen3")
    policy.model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(ModelError, match="layers of kind chunked_attention"):
        generate(policy, ASKED, DECODING, control=PrefixSearch(network(2), WEIGHT, K))
