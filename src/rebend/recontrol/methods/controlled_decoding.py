"""Controlled decoding (CD): token search by a reward model, which scores the response so far with each candidate.

The text is scored as if it ended with the candidate, as in reward-guided search (arXiv:2402.01694) and RE-Control's
table (arXiv:2406.05954, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from transformers import DynamicCache

from rebend.config.controls import ControlledDecodingBlock
from rebend.errors import ConfigError
from rebend.generation.intervention import Control, NoControl, SearchStart
from rebend.models.chat import Message, conversation_text, encode_text, prompt_text
from rebend.models.rewards.model import RewardModel
from rebend.models.rewards.prompt import MARK, around_response
from rebend.models.rewards.reward import Reward
from rebend.recontrol.guidance import guidance_reward
from rebend.recontrol.methods.token_search import TokenSearch, search_control
from rebend.recontrol.methods.tree_attention import TreeAttention
from rebend.recontrol.resources import ControlResources


def make(block: ControlledDecodingBlock, resources: ControlResources) -> Control:
    """Return the search with the block's weight and number of candidates; no control if the weight is 0."""
    return search_control(RewardSearch, guidance_reward, block, resources)


@dataclass(frozen=True)
class RewardSearch(NoControl):
    """A reward model scores the response so far with each candidate.

    A loaded reward model must have the policy's vocabulary. With its own KV cache it reads only a few tokens per
    candidate, not the whole text. A reward model at an address receives texts and may have any vocabulary.
    """

    reward: Reward
    weight: float
    top_k: int

    @property
    def candidates_per_token(self) -> int:
        """Return k: the candidates are the k likeliest tokens."""
        return self.top_k

    def search(self, start: SearchStart) -> TokenSearch:
        """Return the search of a batch. Raises `ConfigError` if a loaded reward model has another vocabulary."""
        if not isinstance(self.reward, RewardModel):
            return TokenSearch(_TextScorer(self.reward, start), DynamicCache(), self.weight, self.top_k)
        if self.reward.tokenizer.get_vocab() != start.policy.tokenizer.get_vocab() or self.reward.head is None:
            raise ConfigError(
                "controlled_decoding needs a reward model that is a decoder with the policy's vocabulary "
                "(as in the paper), or one at an address; method 'cd_prefix' needs no reward model"
            )
        return TokenSearch(_TokenScorer(self.reward, start), DynamicCache(), self.weight, self.top_k)


class _TextScorer:
    """Rewards of unfinished responses, sent as texts to an address."""

    def __init__(self, reward: Reward, start: SearchStart) -> None:
        self.reward, self.start = reward, start
        self.prefills = start.prefills or [""] * len(start.messages)
        # A tokenizer may drop the space before the first word of a text, so the prefill's last tokens are decoded too.
        encode = start.policy.tokenizer
        self.anchors = [encode(p, add_special_tokens=False)["input_ids"][-4:] if p else [] for p in self.prefills]
        self.generated: list[list[int]] = [[] for _ in start.messages]
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return rewards [B, K]; NaN where the address returns none."""
        if self.steps:
            for tokens, token in zip(self.generated, input_ids[:, -1].tolist(), strict=True):
                tokens.append(token)
        self.steps += 1
        count = candidates.shape[1]
        texts = [self._text(row, token) for row, tokens in enumerate(candidates.tolist()) for token in tokens]
        rewards = self.reward.score([messages for messages in self.start.messages for _ in range(count)], texts)
        scores = torch.tensor([nan if reward is None else reward for reward in rewards], dtype=torch.float32)
        return scores.view(-1, count).to(candidates.device)

    def _text(self, row: int, token: int) -> str:
        """Return the response so far with its prefill and a candidate. A special token adds no text."""

        def decode(tokens: Sequence[int]) -> str:
            tokenizer = self.start.policy.tokenizer
            return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

        anchor = self.anchors[row]
        return self.prefills[row] + decode([*anchor, *self.generated[row], token])[len(decode(anchor)) :]


class _TokenScorer:
    """Rewards of unfinished responses by a loaded reward model.

    The model reads each response so far, the candidate, and the tail that follows a finished response in its prompt.
    """

    def __init__(self, reward: RewardModel, start: SearchStart) -> None:
        prefills = start.prefills or [""] * len(start.messages)
        parts = [
            prompt_and_tail(
                reward, messages, prefill, spaced=not prefill and space_follows(start.policy.tokenizer, messages)
            )
            for messages, prefill in zip(start.messages, prefills, strict=True)
        ]
        self.reward, self.tail = reward, parts[0][1]
        room = max(1, reward.settings.max_length - start.max_new_tokens - len(self.tail))
        prompts = [prompt[-room:] for prompt, _ in parts]
        longest, device = max(map(len, prompts)), reward.model.device
        pad = reward.tokenizer.pad_token_id
        padded = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        self.tree = TreeAttention(reward.model, mask, DynamicCache())
        self.newest = self.tree.advance(padded)
        self.ends = torch.tensor(start.ends, device=device)
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return rewards [B, K]. A candidate that ends the response gets the reward of the response without it."""
        if self.steps:
            self.newest = self.tree.advance(input_ids[:, -1:])
        self.steps += 1
        rows = len(candidates)
        tail = torch.tensor(self.tail, dtype=torch.long, device=candidates.device).expand(rows, 1, -1)
        longer = torch.cat([candidates[:, :, None], tail.expand(-1, candidates.shape[1], -1)], dim=2)
        scores = self._head(self.tree.read(longer)[:, :, -1])
        now = self._head(self.tree.read(tail)[:, 0, -1] if self.tail else self.newest)
        return torch.where(torch.isin(candidates, self.ends), now[:, None], scores)

    def _head(self, states: torch.Tensor) -> torch.Tensor:
        assert self.reward.head is not None
        return self.reward.head(states).float().squeeze(-1)


def prompt_and_tail(
    reward: RewardModel, messages: Sequence[Message], prefill: str = "", *, spaced: bool = False
) -> tuple[list[int], list[int]]:
    """Return the token ids before (with `prefill`) and after the generated tokens in a reward model's text.

    With `spaced`, the generated tokens begin with a space, so that of the template is left out.
    """
    encode = reward.tokenizer
    if reward.settings.writes_text:
        before, after = around_response(reward.settings, messages)
        before = before.removesuffix(" ") if spaced else before
        return encode(before + prefill)["input_ids"], encode(after, add_special_tokens=False)["input_ids"]
    before, _, after = conversation_text(encode, messages, MARK).rpartition(MARK)
    return encode_text(encode, before + prefill), encode(after, add_special_tokens=False)["input_ids"]


def space_follows(tokenizer: Any, messages: Sequence[Message]) -> bool:
    """Return whether a response begins with a space: after "Assistant:" it does, after a special token it does not."""
    text = prompt_text(tokenizer, messages)
    return text[-1:].isspace() is False and not text.endswith(tuple(tokenizer.all_special_tokens))
