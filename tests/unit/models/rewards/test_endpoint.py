"""Rewards from an HTTP address: a server with a tiny model, and its possible failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from rebend.config.base import settings
from rebend.config.controls import BestOfNBlock
from rebend.config.decoding import Decoding
from rebend.config.rewards import RewardBlock, endpoint_options
from rebend.errors import ModelError
from rebend.evaluation.reward_scores import score_rows
from rebend.generation.generate import generate
from rebend.generation.requests import make_requests
from rebend.generation.stopping import end_tokens
from rebend.io.chunks import ChunkStore
from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import PROMPTS, SCORES
from rebend.models.rewards.endpoint import EndpointReward, probe
from rebend.models.rewards.prompt import fill
from rebend.models.rewards.reward import load_reward
from rebend.recontrol.methods.best_of_n import BestOfN
from rebend.recontrol.methods.controlled_decoding import RewardSearch
from rebend.recontrol.value_model.activation_store import ACTIVATION_RESPONSES
from rebend.recontrol.value_model.reward_labels import label_rewards
from tests.helpers.json_server import Reply
from tests.helpers.reward_models import make_reward
from tests.helpers.reward_server import (
    QUESTIONS,
    TEMPLATE,
    TEXTS,
    block,
    busy_reply,
    by_model,
    model_at,
    rewards_reply,
)
from tests.helpers.small_policy import PROMPTS as MESSAGES
from tests.helpers.small_policy import make_policy, prompt_rows

SECRET = "reward-key-7741"
GREEDY = Decoding(max_new_tokens=5)


def test_texts_are_scored_in_batches_with_limited_concurrency(serve: Any) -> None:
    def slow(body: dict[str, Any], times: int) -> None:
        time.sleep(0.05)

    server = serve(slow)
    rewards = model_at(server).score([*QUESTIONS, QUESTIONS[0]], [*TEXTS, None])
    assert rewards == [*by_model(server), None]
    assert len(set(rewards)) == 8 and server.most_running == 2
    assert sorted(len(request["query"]) for request in server.requests) == [1, 2, 2, 2]


def test_request_follows_the_protocol_and_holds_no_preferred_answer(serve: Any) -> None:
    server = serve()
    dialogue = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    model_at(server).score([dialogue], ["d"])
    (request,) = server.requests
    before = "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    assert (request["query"], request["prompts"], request["labels"]) == ([f"{before}d"], [before], [""])
    assert request["path"] == "/get_reward" and request["key"] is None


def test_requests_to_busy_and_broken_servers_are_repeated(serve: Any) -> None:
    server = serve(lambda body, times: busy_reply(429) if times == 1 else busy_reply(500) if times == 2 else None)
    assert model_at(server).score(QUESTIONS, TEXTS) == by_model(server)
    assert set(server.requested.values()) == {3}


def test_error_of_a_broken_server_has_its_reply_and_the_number_of_attempts(serve: Any) -> None:
    with pytest.raises(
        ModelError, match="'tiny-2026-01-01' at its address answered with status 503 after 3 attempts: later"
    ):
        model_at(serve(lambda body, times: busy_reply(503))).score(QUESTIONS, TEXTS)


def test_refused_request_is_not_repeated(serve: Any) -> None:
    server = serve(lambda body, times: (422, b"no such model", {}))
    with pytest.raises(ModelError, match="status 422: no such model"):
        model_at(server, batch_size=7).score(QUESTIONS, TEXTS)
    assert set(server.requested.values()) == {1}


def test_redirection_is_not_followed(serve: Any) -> None:
    other = serve()
    server = serve(lambda body, times: (307, b"", {"Location": other.url}))
    with pytest.raises(ModelError, match="status 307"):
        model_at(server, batch_size=7).score(QUESTIONS, TEXTS)
    assert not other.requested


def test_request_without_reply_times_out_and_is_repeated(serve: Any) -> None:
    release = threading.Event()

    def hangs_once(body: dict[str, Any], times: int) -> None:
        if times == 1:
            release.wait(20)

    server = serve(hangs_once)
    try:
        assert model_at(server, batch_size=7, timeout=1).score(QUESTIONS, TEXTS) == by_model(server)
        with pytest.raises(ModelError, match=r"did not answer in 1 attempts.*[Tt]imed out"):
            model_at(serve(lambda body, times: release.wait(20)), batch_size=7, timeout=1, retries=0).score(
                QUESTIONS, TEXTS
            )
    finally:
        release.set()


def test_request_with_a_truncated_reply_is_repeated(serve: Any) -> None:
    def cut(body: dict[str, Any], times: int) -> Reply | None:
        return (200, b'{"rewards": [0.1', {"Content-Length": "900", "Connection": "close"}) if times == 1 else None

    server = serve(cut)
    assert model_at(server, batch_size=7).score(QUESTIONS, TEXTS) == by_model(server)
    assert set(server.requested.values()) == {2}


def test_address_without_a_server_raises_with_the_address(serve: Any) -> None:
    server = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match=r"did not answer in 1 attempts: .*127\.0\.0\.1.*refused"):
        model_at(server, retries=0).score(QUESTIONS, TEXTS)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, b"<html>", {}), "a reply that is no JSON"),
        ((200, b"[1, 2]", {}), "without a list `rewards` .it is a list"),
        ((200, b'{"reward": [1]}', {}), r"without a list `rewards` .it has \['reward'\]"),
        (rewards_reply(0.5), "without a list `rewards`"),
    ],
)
def test_invalid_replies_raise_with_their_content(serve: Any, reply: Reply, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_at(serve(lambda body, times: reply), batch_size=7).score(QUESTIONS, TEXTS)


ROWS = [
    {"row_id": f"id{i}", "messages": m, "response": t} for i, (m, t) in enumerate(zip(QUESTIONS, TEXTS, strict=True))
]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([0.0, 1.0, 2.0], "row 'id3': .* sent 3 rewards for 7 texts"),
        ([0.0] * 9, "row 'id6': .* sent 9 rewards for 7 texts"),
        ([0.0, "0.5", *[0.0] * 5], "row 'id1': .* sent '0.5' for a reward"),
        ([0.0, 0.0, [0.5], *[0.0] * 4], "row 'id2': .*a number is expected"),
        ([True, *[0.0] * 6], "row 'id0': .* sent 'True'"),
    ],
)
def test_wrong_number_of_rewards_and_invalid_entries_name_the_row(serve: Any, rewards: Any, message: str) -> None:
    server = serve(lambda body, times: rewards_reply(rewards))
    with pytest.raises(ModelError, match=message):
        score_rows(model_at(server, batch_size=7), ROWS, "response", ChunkStore(None))


def test_nan_and_null_are_not_scored(serve: Any) -> None:
    server = serve(lambda body, times: rewards_reply([0.5, float("nan"), None, float("inf"), 0.25, 0.0, -1.0]))
    table = score_rows(model_at(server, batch_size=7), ROWS, "response", ChunkStore(None)).to_pylist()
    assert [row["score"] for row in table] == [0.5, None, None, None, 0.25, 0.0, -1.0]
    assert table[1]["not_scored"] == table[2]["not_scored"] == "the score is nan"


def test_key_is_sent_if_the_block_has_it_and_is_in_no_message(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="REWARD_API_KEY is not set"):
        model_at(serve(), key=True)
    monkeypatch.setenv("REWARD_API_KEY", SECRET)
    server = serve(lambda body, times: (401, f"who is {SECRET}?".encode(), {}))
    with pytest.raises(ModelError, match=r"status 401: who is \[the key\]") as raised:
        model_at(server, key=True).score(QUESTIONS, TEXTS)
    assert SECRET not in str(raised.value)
    assert server.requests[0]["key"] == f"Bearer {SECRET}"
    other = serve()
    model_at(other).score(QUESTIONS, TEXTS)
    assert {request["key"] for request in other.requests} == {None}


def test_address_from_the_environment_is_used_and_may_hold_no_secret(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    with pytest.raises(ModelError, match="REWARD_URL is not set"):
        model_at(server, url=None)
    monkeypatch.setenv("REWARD_URL", server.url)
    assert model_at(server, url=None).score(QUESTIONS, TEXTS) == by_model(server)
    monkeypatch.setenv("REWARD_URL", "http://user:word@127.0.0.1:1/get_reward")
    with pytest.raises(ModelError, match="REWARD_URL: records would contain the user") as raised:
        model_at(server, url=None)
    assert "word" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"http": {"model": "m", "url": "http://a:b@c/d"}}, "user, password or query"),
        ({"http": {"model": "m", "url": "localhost:5000"}}, "begins with http://"),
        ({"local": "x"}, "exactly one of hub, local, tiny, trained, http"),
        ({"template": None}, "needs a `template`"),
        ({"dtype": "bfloat16", "max_length": 9}, "`dtype`, `max_length`: only for loaded models"),
    ],
)
def test_invalid_blocks_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardBlock.model_validate({"http": {"model": "m"}, "template": TEMPLATE, **change})


def test_endpoint_options_are_no_settings_and_reach_the_client(serve: Any) -> None:
    server = serve()
    reward = block(server, concurrency=7, timeout=3, retries=1)
    plain = settings(reward)
    assert plain["http"] == {"model": "tiny-2026-01-01", "url": server.url, "key": False}
    model = load_reward("nowhere", RewardBlock.model_validate(plain), endpoint_options=endpoint_options([reward]))
    assert isinstance(model, EndpointReward)
    assert (model.endpoint.concurrency, model.endpoint.timeout, model.endpoint.retries) == (7, 3, 1)


def test_probe_sends_one_request_and_refuses_an_address_without_numbers(serve: Any) -> None:
    server = serve()
    assert isinstance(probe(block(server), "{}"), float) and len(server.requests) == 1
    with pytest.raises(ModelError, match="no number for a greeting: nan"):
        probe(block(serve(lambda body, times: rewards_reply([float("nan")]))), "{}")


KILLED = """
import json, sys
from rebend.config.rewards import RewardBlock
from rebend.io.chunks import ChunkStore
from rebend.models.rewards.endpoint import EndpointReward
from rebend.recontrol.value_model.reward_labels import label_rewards
block = RewardBlock.model_validate_json(sys.argv[1])
label_rewards(EndpointReward(block, block.http), *sys.argv[2:5], ChunkStore(sys.argv[5]))
"""


def test_after_sigkill_only_running_requests_are_repeated(serve: Any, tmp_path: Path) -> None:
    release = threading.Event()

    def answer(body: dict[str, Any], times: int) -> None:
        if len(server.requests) > 5:  # further requests hang until the kill
            release.wait(30)

    server = serve(answer)
    prompts, responses, output = (tmp_path / name for name in ("p.parquet", "r.parquet", "o.parquet"))
    write_parquet(prompts, pa.Table.from_pylist(prompt_rows(), PROMPTS))
    rows = [
        {"response_id": f"row{i}/{s}", "row_id": f"row{i}", "response": f"yes {i} {s}", "n_tokens": 1, "finish": "eos"}
        for i in range(8)
        for s in range(3)
    ]
    write_parquet(responses, pa.Table.from_pylist(rows, ACTIVATION_RESPONSES))
    judge = block(server)
    command = [sys.executable, "-c", KILLED, judge.model_dump_json(), *map(str, (prompts, responses, output))]
    job = subprocess.Popen([*command, str(tmp_path / "parts")], env=dict(os.environ))
    while len(server.requests) < 7 or len(list((tmp_path / "parts").rglob("rewards-*"))) < 5:
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait(timeout=20)
    assert not output.exists()
    release.set()
    counts = label_rewards(model_at(server), prompts, responses, output, ChunkStore(tmp_path / "parts"))
    assert counts == {"rows": 24, "not_scored": 0}
    assert sorted(server.requested.values()) == [1] * 20 + [2] * 4  # two running requests of two texts were repeated
    texts = [fill(TEMPLATE, MESSAGES[i], f"yes {i} {s}") for i in range(8) for s in range(3)]
    assert read_parquet(output, SCORES)["score"].to_pylist() == server.rewards(texts)


def test_best_of_n_scores_by_the_address(serve: Any) -> None:
    server, policy = serve(), make_policy()
    model, rows = model_at(server, batch_size=8), prompt_rows()[:3]
    sampled = Decoding(max_new_tokens=6, temperature=1.0)
    picker = BestOfNBlock(method="best_of_n", n=2, reward="r", decoding=sampled)
    table, notes = BestOfN(picker, model).decode(policy, rows, ChunkStore(None))
    local = make_reward(template="{response}")

    class LocalReward:
        def score(self, messages: Any, responses: Any, parts: Any = None) -> list[float | None]:
            pairs = zip(messages, responses, strict=True)
            return [local.score([MESSAGES[0]], [fill(TEMPLATE, *pair)])[0] for pair in pairs]

    same, _ = BestOfN(picker, LocalReward()).decode(policy, rows, ChunkStore(None))  # type: ignore[arg-type]
    assert table.to_pylist() == same.to_pylist() and notes["picked_without_reward"] == 0


def test_search_sends_the_text_so_far_with_each_candidate(serve: Any) -> None:
    server, policy = serve(), make_policy()
    search = RewardSearch(model_at(server, batch_size=8), 4.0, 3)
    ends = set(end_tokens(policy))
    for prompt in MESSAGES[:3]:
        (response,) = generate(policy, [prompt], GREEDY, control=search)
        (request,) = make_requests(policy, [prompt])
        tokens: list[int] = []
        while len(tokens) < GREEDY.max_new_tokens:
            with torch.no_grad():
                logits = policy.model(torch.tensor([[*request.prompt_ids, *tokens]])).logits[0, -1]
            likely, candidates = logits.log_softmax(-1).topk(3)
            texts = [policy.tokenizer.decode([*tokens, token], skip_special_tokens=True) for token in candidates]
            rewards = server.rewards([fill(TEMPLATE, prompt, text) for text in texts])
            best = int(candidates[(likely + 4.0 * torch.tensor(rewards)).argmax()])
            if best in ends:
                break
            tokens.append(best)
        assert response and response.token_ids == tokens and response.n_clipped == 0
    assert response.token_ids != generate(policy, [prompt], GREEDY)[0].token_ids


def test_search_without_numbers_keeps_the_models_choice_and_counts_it(serve: Any) -> None:
    server, policy = serve(lambda body, times: rewards_reply([None] * len(body["query"]))), make_policy()
    (response,) = generate(policy, [MESSAGES[0]], GREEDY, control=RewardSearch(model_at(server, batch_size=9), 4.0, 3))
    (plain,) = generate(policy, [MESSAGES[0]], GREEDY)
    assert response and plain and response.text == plain.text
    assert response.n_clipped == len(response.token_ids)


def test_request_is_plain_json(serve: Any) -> None:
    server = serve()
    body = model_at(server).body([[{"role": "user", "content": 'a "{response}" \u2028'}]], ["ü\n"])
    assert json.loads(json.dumps(body))["query"] == ['Human: a "{response}" \u2028\n\nAssistant: ü\n']
