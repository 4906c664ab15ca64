"""Client for a remote reward model (OpenRLHF's HTTP protocol).

A request is `{"query": [...], "prompts": [...], "labels": [...]}`: whole texts, their part before the response, and
labels, which are empty because a reward must not depend on the preferred answer. The reply is `{"rewards": [...]}`, one
number per text; other keys are ignored. See docs/rewards.md.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
import urllib3
from urllib3.util import Retry, Timeout, make_headers, parse_url

from rebend.config.base import checked_address
from rebend.config.rewards import RewardBlock, RewardEndpoint, endpoint_of
from rebend.errors import ModelError
from rebend.io.address_errors import BUSY, FirstReplies, concerns_one_text, own_reason, shortened
from rebend.io.chunks import ChunkStore
from rebend.io.progress import progress
from rebend.io.secrets import without_keys
from rebend.models.chat import Message
from rebend.models.rewards.prompt import around_response, scored_text
from rebend.models.rewards.reward import BadRewardError

KEY, ADDRESS = "REWARD_API_KEY", "REWARD_URL"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0  # seconds: the n-th pause is 2ⁿ times the first


class _RejectedTextError(ModelError):
    """A status that concerns single texts of a request: too long, or refused by a content filter."""


class EndpointReward:
    """A reward model behind an address. No request is sent before `score`."""

    def __init__(self, settings: RewardBlock, endpoint: RewardEndpoint) -> None:
        self.settings, self.endpoint = settings, endpoint
        self.url = address(endpoint)
        headers = {"Content-Type": "application/json"}
        if endpoint.key:
            headers["Authorization"] = f"Bearer {_key(endpoint)}"
        self._pool = _pool(self.url, endpoint, headers)

    def score(
        self, messages: Sequence[Sequence[Message]], responses: Sequence[str | None], chunks: ChunkStore | None = None
    ) -> list[float | None]:
        """Return a reward for each prompt with its response, in their order.

        None for no response; NaN if the reply has no number (NaN or null), or if the address rejects this text as too
        long or by a content filter. Both mean "not scored". At most `concurrency` requests run at a time, and each
        reply is stored in `chunks` as soon as it arrives. Raises `ModelError` with the address's reason if it does not
        answer, sends an error or a wrong number of rewards, and `BadRewardError` if an entry is no number.
        """
        chunks, first = chunks or ChunkStore(None), FirstReplies(self._name)
        present = [i for i, response in enumerate(responses) if response is not None]
        size = self.settings.batch_size
        batches = [present[start : start + size] for start in range(0, len(present), size)]
        rewards: list[float | None] = [None] * len(responses)
        pool = ThreadPoolExecutor(max_workers=self.endpoint.concurrency)
        try:
            replies: list[Future[list[float]]] = [
                pool.submit(self._request, chunks, number, batch, messages, responses)
                for number, batch in enumerate(batches)
            ]
            shown = progress(replies, "requesting rewards", total=len(replies)) if chunks.directory else replies
            for batch, reply in zip(batches, shown, strict=True):
                first.add(any(map(math.isfinite, reply.result())), f"rewards {reply.result()[:3]}")
                for i, reward in zip(batch, reply.result(), strict=True):
                    rewards[i] = reward
            first.end()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return rewards

    def _request(
        self,
        chunks: ChunkStore,
        number: int,
        batch: Sequence[int],
        messages: Sequence[Sequence[Message]],
        responses: Sequence[str | None],
    ) -> list[float]:
        def make() -> list[float]:
            return self._scored(batch, messages, responses)

        return chunks.get_or_make(f"rewards-{number:05d}", make)

    def _scored(
        self, batch: Sequence[int], messages: Sequence[Sequence[Message]], responses: Sequence[str | None]
    ) -> list[float]:
        """Return the rewards of a batch, NaN for a text that alone is too long or refused by a content filter."""
        try:
            body = self.body([messages[i] for i in batch], [responses[i] or "" for i in batch])
            return self._rewards_in(self._post(body), batch)
        except _RejectedTextError as error:
            if len(batch) == 1:
                print(f"WARNING: prompt {batch[0]} is not scored: {error}", file=sys.stderr, flush=True)
                return [float("nan")]
        middle = len(batch) // 2
        parts = (batch[:middle], batch[middle:])
        return [reward for part in parts for reward in self._scored(part, messages, responses)]

    def body(self, messages: Sequence[Sequence[Message]], responses: Sequence[str]) -> dict[str, list[str]]:
        """Return the request for some responses."""
        return {
            "query": [scored_text(self.settings, *pair) for pair in zip(messages, responses, strict=True)],
            "prompts": [around_response(self.settings, prompt)[0] for prompt in messages],
            "labels": [""] * len(responses),
        }

    def _post(self, body: dict[str, list[str]]) -> Any:
        """Return the JSON of a reply; urllib3 repeats a request after a pause if the address is busy or fails."""
        attempts = f"{self.endpoint.retries + 1} attempts"
        try:
            reply = self._pool.request("POST", self.url, body=json.dumps(body).encode(), redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise self._error(f"did not answer in {attempts}: {error}") from None
        if reply.status != 200:
            text = reply.data.decode(errors="replace")
            reason = shortened(without_keys(text))  # in this order: a cut may leave a part of a key
            if concerns_one_text(reply.status, text):
                raise _RejectedTextError(f"{self._name} {reason}")
            after = f" after {attempts}" if reply.status in BUSY else ""
            raise self._error(f"answered with status {reply.status}{after}: {reason}")
        try:
            return json.loads(reply.data)
        except ValueError as error:
            raise self._error(f"sent a reply that is no JSON ({error})") from None

    def _rewards_in(self, reply: Any, batch: Sequence[int]) -> list[float]:
        """Return the rewards of a reply, NaN for null. Raises `ModelError` or `BadRewardError`, as `score` does."""
        rewards = reply.get("rewards") if isinstance(reply, dict) else None
        if isinstance(reply, dict) and (reply.get("error") or rewards is None) and (reason := own_reason(reply)[1]):
            raise self._error(f"sent an error in a reply of status 200: {shortened(without_keys(reason))}")
        if not isinstance(rewards, list):
            content = f"it has {sorted(reply)}" if isinstance(reply, dict) else f"it is a {type(reply).__name__}"
            raise self._error(f"sent a reply without a list `rewards` ({content})")
        if len(rewards) != len(batch):
            raise BadRewardError(
                batch[min(len(rewards), len(batch) - 1)],
                f"{self._name} sent {len(rewards)} rewards for {len(batch)} texts; they cannot be matched",
            )
        for row, reward in zip(batch, rewards, strict=True):
            if isinstance(reward, bool) or not isinstance(reward, (int, float, type(None))):
                raise BadRewardError(row, f"{self._name} sent {str(reward)[:40]!r} for a reward; a number is expected")
        return [float("nan") if reward is None else float(reward) for reward in rewards]

    @property
    def _name(self) -> str:
        return f"the reward model '{self.endpoint.model}' at its address"

    def _error(self, message: str) -> ModelError:
        return ModelError(f"{self._name} {without_keys(message)}")


def load_endpoint(
    path: str | Path, settings: RewardBlock, device: torch.device | None, endpoint_options: str
) -> EndpointReward:
    """Return the client of a block's endpoint (see `load_reward`). Raises `ModelError` for no address or no key."""
    return EndpointReward(settings, endpoint_of(settings, endpoint_options))


def probe(settings: RewardBlock, endpoint_options: str) -> float:
    """Send one request and return the reward of a greeting. Raises `ModelError` if the reply is not one number."""
    model = EndpointReward(settings, endpoint_of(settings, endpoint_options))
    (reward,) = model.score([[{"role": "user", "content": "Hello."}]], ["Hello. How can I help you?"])
    if reward is None or not math.isfinite(reward):
        raise ModelError(f"the reward model '{model.endpoint.model}' has no number for a greeting: {reward}")
    return reward


def address(endpoint: RewardEndpoint) -> str:
    """Return the address of the block, or of the environment. Raises `ModelError` if there is none."""
    url = endpoint.url or os.environ.get(ADDRESS)
    if not url:
        raise ModelError(
            f"{ADDRESS} is not set, and the reward model '{endpoint.model}' names no `url`; nothing was sent"
        )
    try:
        return checked_address(url) or ""
    except ValueError as error:
        raise ModelError(f"{ADDRESS}: {error}") from None


def _key(endpoint: RewardEndpoint) -> str:
    if not (key := os.environ.get(KEY)):
        raise ModelError(f"{KEY} is not set, and the reward model '{endpoint.model}' needs a key; nothing was sent")
    return key


def _pool(url: str, endpoint: RewardEndpoint, headers: dict[str, str]) -> urllib3.PoolManager:
    """Return the connections to an address, through the proxy that the environment has for it."""
    retry = Retry(
        total=endpoint.retries,
        status_forcelist=BUSY,
        allowed_methods={"POST"},  # scoring a text twice is harmless
        backoff_factor=_FIRST_PAUSE,
        backoff_max=_LONGEST_PAUSE,
        backoff_jitter=_FIRST_PAUSE,
        retry_after_max=int(_LONGEST_PAUSE),
        raise_on_status=False,
    )
    settings: dict[str, Any] = {
        "maxsize": endpoint.concurrency,
        "headers": headers,
        "retries": retry,
        "timeout": Timeout(endpoint.timeout),
    }
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy is None or proxy_bypass(parts.netloc):
        return urllib3.PoolManager(**settings)
    auth = parse_url(proxy).auth
    proxy_headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
    return urllib3.ProxyManager(proxy, proxy_headers=proxy_headers, **settings)
