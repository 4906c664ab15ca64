"""Hidden states of safe and unsafe answers before and after bending, as points in a plane."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from rebend.errors import DataError
from rebend.models.loading import Policy, load_policy
from rebend.repbend.examples import AnswerReader, Row

Pooling = Literal["last", "mean"]
POINTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("label", pa.string()),  # "safe" or "unsafe": of the answer
        ("stage", pa.string()),  # "before" or "after" bending
        ("x", pa.float64()),  # coordinates along the two widest directions of the states before bending
        ("y", pa.float64()),
    ]
)
_BATCH = 32  # answers per forward pass


def project_hidden_states(
    base: str | Path,
    adapted: str | Path,
    answers: pa.Table,
    dtype: str,
    *,
    index: int | None,
    max_length: int,
    pooling: Pooling = "mean",
) -> pa.Table:
    """Return where the states of `answers` (schema SAFETY) lie before and after bending, as POINTS.

    The state of an answer is `hidden_states[index]` (None: the one after the final norm), averaged over the
    answer's tokens or taken at its last one; answers are cut at `max_length` tokens. Both models are seen through
    one plane: the first two principal components of the states of the base. The table's metadata has
    `explained_variance` (two rates), `hidden_index`, `pooling` and `left_out`.
    Raises `DataError` if fewer than three answers can be used. Only one model is in memory at a time.
    """
    policy = load_policy(base, dtype)
    index = policy.n_layers if index is None else index
    reader = AnswerReader(policy.tokenizer, max_length)
    read = [(entry["label"], reader.answer(entry)) for entry in answers.to_pylist()]
    labels = [label for label, row in read if row]
    rows = [row for _, row in read if row]
    if len(rows) < 3:
        raise DataError(f"{len(rows)} answers are too few to project their states; left out: {reader.left_out}")
    before = answer_states(policy, rows, index, pooling)
    del policy
    after = answer_states(load_policy(adapted, dtype), rows, index, pooling)
    mean, axes, explained = principal_plane(before)
    points = [
        {"row_id": row.row_id, "label": label, "stage": stage, "x": x, "y": y}
        for stage, states in (("before", before), ("after", after))
        for row, label, (x, y) in zip(rows, labels, ((states - mean) @ axes.T).tolist(), strict=True)
    ]
    facts = {"explained_variance": explained, "hidden_index": index, "pooling": pooling, "left_out": reader.left_out}
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    return pa.Table.from_pylist(points, POINTS).replace_schema_metadata(metadata)


@torch.no_grad()
def answer_states(policy: Policy, rows: Sequence[Row], index: int, pooling: Pooling) -> Tensor:
    """Return `hidden_states[index]` of each row's answer, `[N, D]` in the order of `rows`, float64 on CPU."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].tokens))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        tokens = torch.zeros(len(numbers), len(rows[numbers[-1]].tokens), dtype=torch.long)
        for place, number in enumerate(numbers):  # padded on the right: no real token sees it
            tokens[place, : len(rows[number].tokens)] = torch.tensor(rows[number].tokens)
        decoder = policy.model.base_model
        seen = decoder(input_ids=tokens.to(policy.device), output_hidden_states=True, use_cache=False)
        for states, number in zip(seen.hidden_states[index].double().cpu(), numbers, strict=True):
            answer = states[rows[number].n_prompt : len(rows[number].tokens)]
            found[number] = answer[-1] if pooling == "last" else answer.mean(0)
    return torch.stack([found[number] for number in range(len(rows))])


def principal_plane(states: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Fit a plane to states `[N, D]`: mean `[D]`, axes `[2, D]`, and the rates of variance that the axes explain.

    Each axis points to where its largest component is positive, so that the picture has one orientation.
    """
    mean = states.mean(0)
    _, spread, axes = torch.linalg.svd(states - mean, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    variances = spread.square()
    return mean, axes * largest.sign(), (variances[:2] / variances.sum()).tolist()
