"""Fixtures of several rooms."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama classifier with one label and random weights, in hub layout."""
    import torch
    from transformers import LlamaForSequenceClassification

    from tests.helpers.small_policy import config, tokenizer

    path = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    settings = config()
    settings.num_labels = 1
    LlamaForSequenceClassification(settings).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
