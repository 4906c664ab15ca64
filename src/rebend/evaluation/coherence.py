"""Coherence of a response with its prompt: cosine of their sentence embeddings (arXiv:2406.05954, section 5).

The paper uses SimCSE (`pooling: pooler`); encoders of the sentence-transformers family use the mean over
tokens (`pooling: mean`). With MiniLM, which is of this family, coherence is the relevance of an answer to its prompt.
Prompts and responses are truncated to `max_length` tokens. Many sets of responses have the same prompts, so a separate
stage encodes the prompts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from torch.nn.functional import cosine_similarity

from rebend.errors import DataError
from rebend.io.schemas import EMBEDDINGS
from rebend.models.sentence_encoder import Encoder


class Coherence:
    """Coherence of responses with the prompts of a data set, from the prompts' embeddings (schema EMBEDDINGS)."""

    def __init__(self, encoder: Encoder, prompts: pa.Table) -> None:
        self.encoder = encoder
        self.index = {row_id: i for i, row_id in enumerate(prompts["row_id"].to_pylist())}
        flat = prompts["embedding"].combine_chunks().flatten().to_numpy()
        self.prompts = torch.tensor(flat).view(len(self.index), len(flat) // max(1, len(self.index)))  # [prompts, D]

    def __call__(self, row_ids: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the cosine, -1 to 1, of each response with the prompt of its row.

        Raises `DataError` if a row has no prompt embedding.
        """
        if not responses:
            return []
        if unknown := [row_id for row_id in row_ids if row_id not in self.index]:
            raise DataError(
                f"{len(unknown)} responses have no embedded prompt, the first is '{unknown[0]}'; "
                "they belong to another version of the data set"
            )
        prompts = self.prompts[[self.index[row_id] for row_id in row_ids]]
        return cosine_similarity(prompts, self.encoder.encode(responses), dim=1).clamp(-1.0, 1.0).tolist()


def embed_prompts(encoder: Encoder, data: pa.Table) -> pa.Table:
    """Return the embedding of each row's prompt (schema EMBEDDINGS)."""
    vectors = encoder.encode([joined_turns(messages) for messages in data["messages"].to_pylist()])  # [rows, D]
    embeddings = pa.FixedSizeListArray.from_arrays(vectors.flatten().numpy(), vectors.shape[1])
    return pa.table({"row_id": data["row_id"], "embedding": embeddings}).cast(EMBEDDINGS)


def joined_turns(messages: Sequence[Mapping[str, str]]) -> str:
    """Return all turns of a prompt, one per line; the released code also encodes the whole prompt."""
    return "\n".join(turn["content"] for turn in messages)
