"""Coherence of a response with its prompt: cosine of their sentence embeddings (arXiv:2406.05954, section 5).

The paper uses SimCSE (`pooling: pooler`); encoders of the sentence-transformers family use the mean over
tokens (`pooling: mean`). Prompt and response are encoded up to `max_length` tokens, their ends cut off. Many sets of
responses answer the same prompts, so those are encoded once, by a stage of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, AutoTokenizer

from rebend.config.models import EncoderBlock
from rebend.errors import DataError, ModelError
from rebend.io.progress import progress
from rebend.io.schemas import EMBEDDINGS
from rebend.models.loading import only_weights
from rebend.models.remote_code import runs_code


class Encoder:
    """A sentence encoder in eval mode."""

    def __init__(self, model: Any, tokenizer: Any, settings: EncoderBlock) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return embeddings `[B, D]` in float32 on the CPU; equal texts are encoded once, like lengths together."""
        if not texts:
            return torch.empty(0, self.model.config.hidden_size)
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        size = self.settings.batch_size
        batches = [unique[start : start + size] for start in range(0, len(unique), size)]
        vectors = torch.cat([self._embed(batch) for batch in progress(batches, "encode", total=len(batches))])
        place = {text: i for i, text in enumerate(unique)}
        return vectors[[place[text] for text in texts]]

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


class Coherence:
    """Compares responses with the prompts of a data set, given the prompts' embeddings (schema EMBEDDINGS)."""

    def __init__(self, encoder: Encoder, prompts: pa.Table) -> None:
        self.encoder = encoder
        self.place = {row_id: i for i, row_id in enumerate(prompts["row_id"].to_pylist())}
        flat = prompts["embedding"].combine_chunks().flatten().to_numpy()
        self.prompts = torch.tensor(flat).view(len(self.place), len(flat) // max(1, len(self.place)))  # [prompts, D]

    def __call__(self, row_ids: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the cosine, -1 to 1, of each response with the prompt of its row (no N x N matrix is made).

        Raises `DataError` that names a row whose prompt has no embedding.
        """
        if not responses:
            return []
        if unknown := [row_id for row_id in row_ids if row_id not in self.place]:
            raise DataError(
                f"{len(unknown)} responses belong to no prompt that was embedded, the first is '{unknown[0]}'; "
                "they were made from another version of the data set"
            )
        prompts = self.prompts[[self.place[row_id] for row_id in row_ids]]
        return cosine_similarity(prompts, self.encoder.encode(responses), dim=1).clamp(-1.0, 1.0).tolist()


def embed_prompts(encoder: Encoder, data: pa.Table) -> pa.Table:
    """Return the embedding of each row's prompt (schema EMBEDDINGS)."""
    vectors = encoder.encode([joined_turns(messages) for messages in data["messages"].to_pylist()])  # [rows, D]
    embeddings = pa.FixedSizeListArray.from_arrays(vectors.flatten().numpy(), vectors.shape[1])
    return pa.table({"row_id": data["row_id"], "embedding": embeddings}).cast(EMBEDDINGS)


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


def joined_turns(messages: Sequence[Mapping[str, str]]) -> str:
    """Return all turns of a prompt, one per line; the released code also encodes the whole prompt."""
    return "\n".join(turn["content"] for turn in messages)
