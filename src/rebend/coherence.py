"""How close a response stays to its prompt: cosine of their sentence embeddings (arXiv:2406.05954, section 5).

The paper uses SimCSE (`pooling: pooler`); encoders of the sentence-transformers family use the mean over
tokens (`pooling: mean`). Prompt and response are encoded up to `max_length` tokens, their ends cut off.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, AutoTokenizer

from rebend.config.blocks import EncoderBlock
from rebend.errors import ModelError
from rebend.models import only_weights
from rebend.progress import progress
from rebend.repository_code import runs_code


class Encoder:
    """A sentence encoder in eval mode."""

    def __init__(self, model: Any, tokenizer: Any, settings: EncoderBlock) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings

    def coherence(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the cosine, -1 to 1, of each prompt with its own response (no N x N matrix is made)."""
        unique = list(dict.fromkeys([*prompts, *responses]))  # one prompt often has many responses
        vectors = dict(zip(unique, self.encode(unique), strict=True))
        if not vectors:
            return []
        left = torch.stack([vectors[text] for text in prompts])
        right = torch.stack([vectors[text] for text in responses])
        return cosine_similarity(left, right, dim=1).clamp(-1.0, 1.0).tolist()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return embeddings `[B, D]` in float32 on the CPU; texts of like length share a batch."""
        if not texts:
            return torch.empty(0, self.model.config.hidden_size)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        size = self.settings.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        parts = [self._embed([texts[i] for i in batch]) for batch in progress(batches, "encode", total=len(batches))]
        vectors = torch.cat(parts)
        return vectors[torch.tensor(order).argsort()]

    def _embed(self, texts: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.settings.max_length, return_tensors="pt"
        ).to(self.model.device)
        out = self.model(**tokens)
        if self.settings.pooling == "pooler":
            return out.pooler_output.float().cpu()
        mask = tokens["attention_mask"].unsqueeze(-1).float()  # [B, T, 1]
        states = out.last_hidden_state.float()  # [B, T, D]
        return ((states * mask).sum(1) / mask.sum(1)).cpu()


def load_encoder(path: str | Path | None, settings: EncoderBlock) -> Encoder:
    """Load the encoder in folder `path`, or, without one, that of the package in `settings`.

    Raises `ModelError` if there is no encoder, or it lacks the pooled output that `settings` asks for.
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(model.to(device).eval(), tokenizer, settings)


def package_folder(package: str | None) -> Path:
    """Return the folder `model` of an installed package, found without importing it."""
    if package is None:
        raise ModelError("an encoder from the hub or a local folder needs its folder; none was given")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModelError(
            f"the encoder's package '{package}' is not installed (pip install {package.replace('_', '-')})"
        )
    return Path(found.origin).parent / "model"


def dialogue_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Return all turns of a prompt, one below the other; the released code encodes the whole prompt too."""
    return "\n".join(turn["content"] for turn in messages)
