"""Token search: the scores of candidates equal the scores of whole texts, computed without a cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rebend.config.decoding import Decoding
from rebend.errors import ConfigError
from rebend.generation.generate import generate
from rebend.generation.intervention import NoControl, SearchStart
from rebend.generation.requests import make_requests
from rebend.models.chat import conversation_text
from rebend.models.tiny_model import train_tokenizer
from rebend.recontrol.methods.cd_prefix import PrefixSearch
from rebend.recontrol.methods.controlled_decoding import RewardSearch, prompt_and_tail
from rebend.recontrol.methods.token_search import TokenSearch
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network
from tests.helpers.reward_models import make_reward
from tests.helpers.small_policy import PROMPTS, make_policy, tokenizer

GREEDY = Decoding(max_new_tokens=10, batch_size=8)
SAMPLED = Decoding(max_new_tokens=12, temperature=1.0, batch_size=8)
K = 5


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def network() -> ValueNetwork:
    net = new_network(Shape(32, 24, 2), 0).requires_grad_(False)
    for weight in net.parameters():
        weight.mul_(4.0)
    return net


@pytest.fixture(scope="module")
def reward():
    return make_reward()


def tokens(responses):
    return [response.token_ids for response in responses]


def next_tokens(policy, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probabilities and ids of the K likeliest tokens, and the newest state, without a cache."""
    out = policy.model(torch.tensor([ids]), output_hidden_states=True)
    likely, candidates = out.logits[0, -1].float().log_softmax(-1).topk(K)
    return likely, candidates, out.hidden_states[-1][0, -1]


@torch.no_grad()
def by_hand(policy, request, scores_of, weight: float, steps: int) -> list[int]:
    """Return the tokens of a greedy search for one unpadded prompt.

    `scores_of(ids, response ids, candidates, newest state)` returns one score per candidate.
    """
    ids, generated = list(request.prompt_ids), []
    for _ in range(steps):
        likely, candidates, newest = next_tokens(policy, ids)
        scores = scores_of(ids, generated, candidates.tolist(), newest)
        best = int(candidates[(likely + weight * torch.tensor(scores)).argmax()])
        if best in (tokenizer().eos_token_id, tokenizer().pad_token_id):
            break
        ids.append(best)
        generated.append(best)
    return generated


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_value_network_reads_the_state_that_follows_each_candidate(policy, network, weight):
    ends = (tokenizer().eos_token_id, tokenizer().pad_token_id)

    def scores_of(ids, generated, candidates, newest):
        def one(candidate):
            if candidate in ends:
                return float(network(newest))
            return float(network(next_tokens(policy, [*ids, candidate])[2]))

        return [one(candidate) for candidate in candidates]

    responses = generate(policy, PROMPTS, GREEDY, control=PrefixSearch(network, weight, K))
    for request, response in zip(make_requests(policy, PROMPTS), responses, strict=True):
        assert response.token_ids == by_hand(policy, request, scores_of, weight, GREEDY.max_new_tokens)
        assert response.n_clipped == 0
    assert tokens(responses) != tokens(generate(policy, PROMPTS, GREEDY))


@pytest.mark.parametrize("template", [None, "Human: {prompt}\n\nAssistant: {response}", "{prompt} {response} end"])
def test_the_reward_model_scores_the_response_so_far_with_each_candidate(policy, template):
    reward = make_reward(template=template)
    ends = (tokenizer().eos_token_id, tokenizer().pad_token_id)

    def scores_for(messages):
        before, tail = prompt_and_tail(reward, messages)

        def scores_of(ids, generated, candidates, newest):
            texts = [[*before, *generated, *([] if c in ends else [c]), *tail] for c in candidates]
            return [reward.forward([text])[0] for text in texts]

        return scores_of

    responses = generate(policy, PROMPTS[:4], GREEDY, control=RewardSearch(reward, 2.0, K))
    for messages, response in zip(PROMPTS[:4], responses, strict=True):
        (request,) = make_requests(policy, [messages])
        assert response.token_ids == by_hand(policy, request, scores_for(messages), 2.0, GREEDY.max_new_tokens)
    assert tokens(responses) != tokens(generate(policy, PROMPTS[:4], GREEDY))


def test_a_search_scores_the_response_with_its_prefill(policy, network, reward):
    prefill = "take the lamp"
    ends = (tokenizer().eos_token_id, tokenizer().pad_token_id)
    for messages in PROMPTS[:3]:
        before, tail = prompt_and_tail(reward, messages, prefill)
        assert tokenizer().decode(before).endswith(prefill)

        def by_reward(ids, generated, candidates, newest, before=before, tail=tail):
            return [reward.forward([[*before, *generated, *([] if c in ends else [c]), *tail]])[0] for c in candidates]

        def by_value(ids, generated, candidates, newest):
            follow = [newest if c in ends else next_tokens(policy, [*ids, c])[2] for c in candidates]
            return [float(network(state)) for state in follow]

        (request,) = make_requests(policy, [messages], prefills=[prefill])
        for control, scores in ((RewardSearch(reward, 2.0, K), by_reward), (PrefixSearch(network, 2.0, K), by_value)):
            (response,) = generate(policy, [messages], GREEDY, prefills=[prefill], control=control)
            assert response.token_ids == by_hand(policy, request, scores, 2.0, GREEDY.max_new_tokens)
            assert response.text.startswith(prefill)


def test_prompt_and_tail_surround_the_response_in_the_reward_models_text():
    reward = make_reward()
    before, tail = prompt_and_tail(reward, PROMPTS[1])
    words = tokenizer()("a lamp", add_special_tokens=False)["input_ids"]
    text = conversation_text(tokenizer(), PROMPTS[1], "a lamp")
    assert tokenizer().decode([*before, *words, *tail]) == text
    assert tail  # the end of the assistant's turn, the position of the reward


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["value", "reward"])
def test_a_searched_response_does_not_depend_on_batch_or_order(policy, network, reward, decoding, kind):
    control = PrefixSearch(network, 1.0, K) if kind == "value" else RewardSearch(reward, 1.0, K)
    keys = [f"row{i}" for i in range(len(PROMPTS))]
    together = tokens(generate(policy, PROMPTS, decoding, keys=keys, control=control))
    alone = decoding.model_copy(update={"batch_size": 1})
    assert together == tokens(generate(policy, PROMPTS, alone, keys=keys, control=control))
    backwards = tokens(generate(policy, PROMPTS[::-1], decoding, keys=keys[::-1], control=control))[::-1]
    assert together == backwards


def test_a_search_with_weight_zero_is_greedy_decoding(policy, network):
    assert tokens(generate(policy, PROMPTS, GREEDY, control=PrefixSearch(network, 0.0, K))) == tokens(
        generate(policy, PROMPTS, GREEDY)
    )


def test_candidates_are_sampled_by_their_new_probabilities(policy, network):
    """The probabilities are proportional to p(y) e^{wV} on the candidates."""
    one = SAMPLED.model_copy(update={"max_new_tokens": 1, "batch_size": 100})
    (request,) = make_requests(policy, [PROMPTS[0]])
    with torch.no_grad():
        likely, candidates, newest = next_tokens(policy, request.prompt_ids)
        follow = [next_tokens(policy, [*request.prompt_ids, int(c)])[2] for c in candidates]
        scores = torch.stack(
            [network(newest if int(c) in _ends() else s) for c, s in zip(candidates, follow, strict=True)]
        )
    expected = (likely + 1.5 * scores).softmax(0)
    n = 1500
    responses = generate(policy, [PROMPTS[0]] * n, one, control=PrefixSearch(network, 1.5, K))
    ended = [int(c) for c in candidates if int(c) in _ends()]
    drawn = [r.token_ids[0] if r.token_ids else ended[0] for r in responses]
    assert set(drawn) <= set(candidates.tolist())
    shares = torch.tensor([drawn.count(int(c)) / n for c in candidates])
    assert (shares - expected).abs().max() < 0.05


def _ends() -> tuple[int, int]:
    return tokenizer().eos_token_id, tokenizer().pad_token_id


def test_a_non_finite_score_is_ignored_and_counted_as_clipped(policy, network):
    broken = new_network(Shape(32, 24, 2), 0).requires_grad_(False)
    broken.last.weight.fill_(torch.nan)
    plain = generate(policy, PROMPTS, GREEDY)
    clipped = generate(policy, PROMPTS, GREEDY, control=PrefixSearch(broken, 1.0, K))
    assert tokens(clipped) == tokens(plain)
    assert all(response.n_clipped == len(response.token_ids) > 0 for response in clipped)


def test_a_reward_model_with_another_vocabulary_is_refused(policy, reward):
    other = dataclasses.replace(policy, tokenizer=train_tokenizer(["other words altogether"] * 9, 300))
    start = SearchStart(other, PROMPTS[:1], torch.ones(1, 3), [0], 4)
    with pytest.raises(ConfigError, match="policy's vocabulary"):
        RewardSearch(reward, 1.0, K).search(start)


def test_all_tokens_are_candidates_if_k_exceeds_the_vocabulary():
    search = TokenSearch(lambda ids, candidates, newest: candidates.float(), cache=None, weight=1e3, top_k=99)
    logits = search(torch.zeros(2, 3, dtype=torch.long), torch.randn(2, 7))
    assert logits.argmax(-1).tolist() == [6, 6]
    assert torch.isfinite(logits).all()


def test_no_control_has_no_search(policy):
    start = SearchStart(policy, PROMPTS[:1], torch.ones(1, 3), [0], 4)
    assert NoControl().search(start) is None
