"""A reward endpoint for tests: a local HTTP server with a tiny reward model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rebend.config.rewards import RewardBlock
from rebend.models.rewards.endpoint import EndpointReward
from rebend.models.rewards.prompt import fill
from tests.helpers.json_server import JsonServer, Reply, started_servers
from tests.helpers.reward_models import make_reward
from tests.helpers.small_policy import PROMPTS as MESSAGES

TEMPLATE = "Human: {prompt}\n\nAssistant: {response}"
TEXTS = [f"take the lamp {i}" for i in range(7)]
QUESTIONS = [MESSAGES[i % len(MESSAGES)] for i in range(7)]


class RewardServer(JsonServer):
    """Replies with `answer(body, times)`, or with the rewards of a tiny model if that is None.

    `times` counts requests with the same first text.
    """

    path = "/get_reward"

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply | None] | None = None) -> None:
        super().__init__()
        self.answer = answer or (lambda body, times: None)
        self.model = make_reward(template="{response}")

    def texts(self, body: dict[str, Any]) -> list[str]:
        return body["query"]

    def reply(self, body: dict[str, Any], times: int) -> Reply:
        return self.answer(body, times) or rewards_reply(self.rewards(body["query"]))

    def rewards(self, texts: list[str]) -> list[float]:
        """Return the tiny model's rewards of whole texts, each scored alone."""
        with self.lock:
            return [self.model.forward([self.model.encode([], text)])[0] for text in texts]


def rewards_reply(rewards: Any) -> Reply:
    """Return a reply with these rewards and the other keys of OpenRLHF's servers."""
    return 200, json.dumps({"rewards": rewards, "scores": rewards, "extra_logs": {}}).encode(), {}


def busy_reply(status: int) -> Reply:
    return status, b"later", {"Retry-After": "0"}


@contextmanager
def endpoints_on_call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RewardServer]]:
    """Yield a function that starts a reward endpoint; all endpoints stop at the end of the block."""
    for name in ("REWARD_URL", "REWARD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with started_servers(RewardServer) as start:
        yield start


def block(server: RewardServer, batch_size: int = 2, **changes: Any) -> RewardBlock:
    """Return a reward block with the address of a server."""
    http = {"model": "tiny-2026-01-01", "url": server.url, "concurrency": 2, "retries": 2, "timeout": 20, **changes}
    return RewardBlock.model_validate({"http": http, "template": TEMPLATE, "batch_size": batch_size})


def model_at(server: RewardServer, **changes: Any) -> EndpointReward:
    """Return the client of a server, with changes of its block."""
    reward = block(server, **changes)
    assert reward.http is not None
    return EndpointReward(reward, reward.http)


def by_model(server: RewardServer) -> list[float]:
    """Return the rewards of `TEXTS` after `QUESTIONS`, each scored alone."""
    return server.rewards([fill(TEMPLATE, *pair) for pair in zip(QUESTIONS, TEXTS, strict=True)])
