"""Reward models on disk: one number for a prompt and its response, read at the last token that is not padding.

Two kinds can be loaded: `AutoModelForSequenceClassification` with one label, and UltraRM's layout (a Llama body under
`model.` and a linear head without bias, `regression_head.weight`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, LlamaConfig, LlamaModel, LlamaPreTrainedModel

from rebend.config.rewards import RewardBlock
from rebend.errors import ModelError
from rebend.io.chunks import ChunkStore
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length
from rebend.models.chat import Message, conversation_text, encode_text
from rebend.models.loading import best_device, load_tokenizer, only_weights
from rebend.models.remote_code import runs_code
from rebend.models.rewards.prompt import scored_text

_BATCHES_PER_CHUNK = 16


class RegressionHead(LlamaPreTrainedModel):
    """UltraRM's layout: a Llama body and a linear head without bias, D to 1."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()


class RewardModel:
    """A reward model in eval mode with its tokenizer. A reward is the raw output of its head."""

    def __init__(self, model: Any, tokenizer: Any, settings: RewardBlock) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        # A decoder's head is applied here, at the last token that is not padding. (The library searches for this
        # token itself and gets it wrong if pad and EOS are the same.)
        self.head = getattr(model, "regression_head", None) or getattr(model, "score", None)

    def score(
        self, messages: Sequence[Sequence[Message]], responses: Sequence[str | None], chunks: ChunkStore | None = None
    ) -> list[float | None]:
        """Return a reward for each prompt with its response, in their order.

        None for no response; NaN if the model returns no number. Both mean "not scored". Texts of similar length share
        a batch; finished groups of batches are kept in `chunks`.
        """
        chunks = chunks or ChunkStore(None)
        present = [i for i, response in enumerate(responses) if response is not None]
        encoded = {i: self.encode(messages[i], responses[i] or "") for i in present}
        lengths = [len(encoded[i]) for i in present]
        batches = batches_by_length(lengths, self.settings.batch_size, self.settings.batch_tokens)
        groups = [batches[i : i + _BATCHES_PER_CHUNK] for i in range(0, len(batches), _BATCHES_PER_CHUNK)]
        rewards: list[float | None] = [None] * len(responses)
        for number, group in enumerate(progress(groups, "scoring rewards", total=len(groups))):

            def make(group: list[list[int]] = group) -> list[list[float]]:
                return [self.forward([encoded[present[i]] for i in batch]) for batch in group]

            for batch, batch_rewards in zip(group, chunks.get_or_make(f"rewards-{number:05d}", make), strict=True):
                for i, reward in zip(batch, batch_rewards, strict=True):
                    rewards[present[i]] = reward
        return rewards

    def encode(self, messages: Sequence[Message], response: str) -> list[int]:
        """Return the token ids of prompt and response; a text that is too long is cut at its beginning."""
        if self.settings.writes_text:
            ids = self.tokenizer(scored_text(self.settings, messages, response))["input_ids"]
        else:  # a chat template writes the special tokens itself
            ids = encode_text(self.tokenizer, conversation_text(self.tokenizer, messages, response))
        return ids[-self.settings.max_length :]

    @torch.inference_mode()
    def forward(self, encoded: Sequence[Sequence[int]]) -> list[float]:
        """Return the rewards [B] of one batch of token ids, padded on the right.

        A decoder's token depends only on tokens to its left, and position ids count from the first token, so neither
        padding nor batch changes a reward. So a decoder needs no attention mask, which would be B·T² numbers.
        """
        longest = max(len(ids) for ids in encoded)
        pad = self.tokenizer.pad_token_id
        device = self.model.device
        input_ids = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in encoded], device=device)
        lengths = torch.tensor([len(ids) for ids in encoded], device=device)
        if self.head is None:  # an encoder: its head pools the states
            mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
            return self.model(input_ids=input_ids, attention_mask=mask).logits.float().squeeze(-1).tolist()
        states = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        last = states[torch.arange(len(encoded), device=device), lengths - 1]
        return self.head(last).float().squeeze(-1).tolist()


def load_reward_model(
    path: str | Path, settings: RewardBlock, device: torch.device | None = None, endpoint_options: str = "{}"
) -> RewardModel:
    """Load a reward model folder in hub layout; `endpoint_options` is not used (see `load_reward`).

    Raises `ModelError` if a weight of body or head is missing (it would be random), the head has more than one output,
    the tokenizer does not fit the vocabulary, or there is neither a chat template nor the key `template`.
    """
    tokenizer = load_tokenizer(path)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=runs_code(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: has no config.json that can be read ({error})") from error
    if settings.head == "sequence_classification" and config.num_labels != 1:
        raise ModelError(f"{path}: a reward model has one label; this classifier has {config.num_labels}")
    kind: Any = RegressionHead if settings.head == "regression_head" else AutoModelForSequenceClassification
    if kind is RegressionHead and config.model_type != "llama":
        raise ModelError(f"{path}: `head: regression_head` needs a Llama body; this is '{config.model_type}'")
    try:
        with only_weights(path):
            model, loading_info = kind.from_pretrained(
                path,
                config=config,
                dtype=getattr(torch, settings.dtype),
                local_files_only=True,
                trust_remote_code=runs_code(path),
                output_loading_info=True,
                ignore_mismatched_sizes=False,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: is no reward model that can be loaded ({error})") from error
    _check(path, model, tokenizer, sorted(loading_info["missing_keys"]), settings)
    return RewardModel(model.to(device or best_device()).eval(), tokenizer, settings)


def _check(path: str | Path, model: Any, tokenizer: Any, missing: list[str], settings: RewardBlock) -> None:
    """Raise `ModelError` for a model whose rewards would have no meaning."""
    if missing:
        hint = " Is the key `head` right?" if any("head" in name or "score" in name for name in missing) else ""
        raise ModelError(f"{path}: the checkpoint lacks {', '.join(missing[:5])}; they would be random.{hint}")
    pieces = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= pieces:
        raise ModelError(
            f"{path}: the tokenizer's highest token is {highest}, the reward model has tokens 0 to {pieces - 1}; "
            "they do not belong together"
        )
    if not settings.writes_text and not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template; give the reward model's key `template`")
