"""Small reward models for tests: a random decoder with a score head, and the tokenizer of the small policy."""

from __future__ import annotations

import torch
from transformers import LlamaForSequenceClassification

from rebend.config.rewards import RewardBlock
from rebend.models.rewards.model import RewardModel
from tests.helpers.small_policy import config, tokenizer


def make_reward(seed: int = 5, **settings: object) -> RewardModel:
    """Return a reward model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    shape = config()
    shape.num_labels = 1
    model = LlamaForSequenceClassification(shape).eval()
    with torch.no_grad():
        model.score.weight.mul_(10.0)  # rewards that differ
    return RewardModel(model, tokenizer(), RewardBlock.model_validate({"local": "x", "max_length": 128, **settings}))
