"""Token search: the likeliest next tokens are scored again by what the response would be worth with them.

Both searches of RE-Control's table (arXiv:2406.05954, section 5) are here. CD takes a reward model, which
reads the response so far with each candidate, as if it ended there (as in reward-guided search,
arXiv:2402.01694). CD prefix takes a prefix scorer, which predicts the final reward of an unfinished response
(controlled decoding, arXiv:2310.17022): here the value network, on the state that follows each candidate.
A candidate's logit becomes log p + w · score, and no token outside the `top_k` likeliest can be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Protocol

import torch
from transformers import DynamicCache, LogitsProcessor

from rebend.errors import ConfigError
from rebend.models.chat import Message, conversation_text
from rebend.models.rewards.endpoint import EndpointReward
from rebend.models.rewards.model import Reward, RewardModel
from rebend.models.rewards.prompt import MARK, around_response
from rebend.recontrol.methods.controls import NoControl, SearchStart
from rebend.recontrol.value_model.network import ValueNetwork


class Branches:
    """Reads continuations of left-padded rows with attention mask `[B, T]` and the cache of what was read."""

    def __init__(self, model: Any, mask: torch.Tensor, cache: DynamicCache) -> None:
        if "flash" in str(model.config._attn_implementation):
            model.set_attn_implementation("sdpa")  # flash attention knows no such masks
        self.model, self.mask, self.cache = model, mask, cache
        self.body = getattr(model, model.base_model_prefix)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read tokens `[B, N]` for good; return the final-norm state of the newest `[B, D]`."""
        mask = self._seen(tokens.shape[1])
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        read = self.body(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        return read.last_hidden_state[:, -1]

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the final-norm states `[B, K, N, D]` of K continuations `[B, K, N]` of every row."""
        rows, count, length = tokens.shape
        seen = self._seen(0)
        branch = torch.arange(count * length, device=tokens.device) // length
        own = (branch[:, None] == branch) & torch.ones_like(branch[:, None] == branch).tril()
        visible = torch.cat([seen[:, None].bool().expand(-1, len(branch), -1), own.expand(rows, -1, -1)], dim=2)
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=tokens.device)
        mask.masked_fill_(~visible, torch.finfo(dtype).min)
        steps = torch.arange(length, device=tokens.device).repeat(count)
        read = self.body(
            input_ids=tokens.flatten(1),
            attention_mask=mask[:, None],
            position_ids=seen.sum(1, keepdim=True) + steps,
            past_key_values=self.cache,
            use_cache=True,
        )
        self._forget(seen.shape[1])
        return read.last_hidden_state.unflatten(1, (count, length))

    def _seen(self, more: int) -> torch.Tensor:
        """The mask of all that is in the cache and of `more` new tokens."""
        width = self.cache.get_seq_length() + more
        return torch.nn.functional.pad(self.mask, (0, width - self.mask.shape[1]), value=1)

    def _forget(self, length: int) -> None:
        """Keep the first `length` positions of the cache."""
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


class Scorer(Protocol):
    """Says what candidates are worth."""

    def __call__(self, input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return scores `[B, K]` of candidates `[B, K]` after `input_ids`, whose newest state is `[B, D]`."""
        ...


class TokenSearch(LogitsProcessor):
    """Scores candidates again before one is chosen. `newest` is set at each step by the decoding loop."""

    def __init__(self, scorer: Scorer, cache: DynamicCache, weight: float, top_k: int) -> None:
        self.scorer, self.cache, self.weight, self.top_k = scorer, cache, weight, top_k
        self.newest = torch.zeros(0, 0)
        self.held: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, V]`, minus infinity outside the candidates.

        A row with a score that is no number keeps its log-probabilities and is counted as held back.
        """
        likely, candidates = scores.float().log_softmax(-1).topk(min(self.top_k, scores.shape[-1]))
        worth = self.scorer(input_ids, candidates, self.newest)
        held = ~torch.isfinite(worth).all(dim=1)
        self.held.append(held)
        likely = likely + self.weight * torch.where(held[:, None], 0.0, worth)
        return torch.full_like(scores, -torch.inf).scatter_(1, candidates, likely.to(scores.dtype))

    def held_back(self) -> torch.Tensor:
        """Return which steps were held back `[B, T]`."""
        return torch.stack(self.held, 1).cpu()


@dataclass(frozen=True)
class PrefixSearch(NoControl):
    """CD prefix: the value network, on the model's device, reads the state that follows each candidate.

    A candidate that ends the response has no next state; it is worth V of the state that it is sampled from.
    """

    network: ValueNetwork
    weight: float
    top_k: int

    def search(self, start: SearchStart) -> TokenSearch:
        """Start a batch."""
        cache = DynamicCache()
        branches = Branches(start.policy.model, start.mask, cache)
        ends = torch.tensor(start.ends, device=start.mask.device)

        def worth(input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
            following = self.network(branches.read(candidates[:, :, None])[:, :, 0].float())
            return torch.where(torch.isin(candidates, ends), self.network(newest.float())[:, None], following)

        return TokenSearch(worth, cache, self.weight, self.top_k)


@dataclass(frozen=True)
class RewardSearch(NoControl):
    """CD: a reward model reads the response so far with each candidate.

    One that is loaded here must have the policy's vocabulary. It keeps a KV cache of its own, so that a candidate
    costs a few tokens and not the whole text again. One at an address is sent texts, and may have any vocabulary.
    """

    reward: Reward
    weight: float
    top_k: int

    def search(self, start: SearchStart) -> TokenSearch:
        """Start a batch. Raises `ConfigError` if a loaded reward model cuts texts into other tokens."""
        if isinstance(self.reward, EndpointReward):
            return TokenSearch(_TextReader(self.reward, start), DynamicCache(), self.weight, self.top_k)
        if self.reward.tokenizer.get_vocab() != start.policy.tokenizer.get_vocab() or self.reward.head is None:
            raise ConfigError(
                "controlled_decoding needs a reward model that is a decoder with the policy's vocabulary "
                "(in the paper, too), or one at an address; take method 'cd_prefix', which needs none"
            )
        return TokenSearch(_RewardReader(self.reward, start), DynamicCache(), self.weight, self.top_k)


class _TextReader:
    """Rewards of unfinished responses as texts, each as if it ended there."""

    def __init__(self, reward: EndpointReward, start: SearchStart) -> None:
        self.reward, self.start = reward, start
        self.prefills = start.prefills or [""] * len(start.messages)
        # A tokenizer may drop the space before the first word that it decodes: keep a word before it.
        encode = start.policy.tokenizer
        self.anchors = [encode(p, add_special_tokens=False)["input_ids"][-4:] if p else [] for p in self.prefills]
        self.made: list[list[int]] = [[] for _ in start.messages]
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return rewards `[B, K]`; NaN where the address has none."""
        if self.steps:
            for made, token in zip(self.made, input_ids[:, -1].tolist(), strict=True):
                made.append(token)
        self.steps += 1
        count = candidates.shape[1]
        texts = [self._text(row, token) for row, likely in enumerate(candidates.tolist()) for token in likely]
        found = self.reward.score([asked for asked in self.start.messages for _ in range(count)], texts)
        worth = torch.tensor([nan if reward is None else reward for reward in found], dtype=torch.float32)
        return worth.view(-1, count).to(candidates.device)

    def _text(self, row: int, token: int) -> str:
        """The response so far, with its prefill, and a candidate; a candidate that is no text adds none."""

        def decode(tokens: Sequence[int]) -> str:
            tokenizer = self.start.policy.tokenizer
            return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

        anchor = self.anchors[row]
        return self.prefills[row] + decode([*anchor, *self.made[row], token])[len(decode(anchor)) :]


class _RewardReader:
    """Rewards of unfinished responses, each with what follows a finished one in the reward model's text."""

    def __init__(self, reward: RewardModel, start: SearchStart) -> None:
        prefills = start.prefills or [""] * len(start.messages)
        parts = [prompt_and_tail(reward, *pair) for pair in zip(start.messages, prefills, strict=True)]
        self.reward, self.tail = reward, parts[0][1]
        room = max(1, reward.settings.max_length - start.max_new_tokens - len(self.tail))
        prompts = [prompt[-room:] for prompt, _ in parts]
        longest, device = max(map(len, prompts)), reward.model.device
        pad = reward.tokenizer.pad_token_id
        padded = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        self.branches = Branches(reward.model, mask, DynamicCache())
        self.newest = self.branches.advance(padded)
        self.ends = torch.tensor(start.ends, device=device)
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return rewards `[B, K]`; a candidate that ends the response leaves it as it is."""
        if self.steps:
            self.newest = self.branches.advance(input_ids[:, -1:])
        self.steps += 1
        rows = len(candidates)
        tail = torch.tensor(self.tail, dtype=torch.long, device=candidates.device).expand(rows, 1, -1)
        longer = torch.cat([candidates[:, :, None], tail.expand(-1, candidates.shape[1], -1)], dim=2)
        worth = self._head(self.branches.read(longer)[:, :, -1])
        now = self._head(self.branches.read(tail)[:, 0, -1] if self.tail else self.newest)
        return torch.where(torch.isin(candidates, self.ends), now[:, None], worth)

    def _head(self, states: torch.Tensor) -> torch.Tensor:
        assert self.reward.head is not None
        return self.reward.head(states).float().squeeze(-1)


def prompt_and_tail(reward: RewardModel, messages: Sequence[Message], prefill: str = "") -> tuple[list[int], list[int]]:
    """Return the token ids before and after what is generated in a reward model's text; `prefill` stands before."""
    template = reward.settings.template
    if template is None:
        before, _, after = conversation_text(reward.tokenizer, messages, MARK).rpartition(MARK)
    else:
        before, after = around_response(template, messages)
    encode = reward.tokenizer
    return (
        encode(before + prefill, add_special_tokens=template is not None)["input_ids"],
        encode(after, add_special_tokens=False)["input_ids"],
    )
