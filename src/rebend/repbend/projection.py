"""Hidden states of safe and unsafe answers before and after adapting a model, as points in a plane."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from rebend.errors import DataError
from rebend.models.hidden_states import text_states
from rebend.models.layers import layer_of
from rebend.models.loading import Policy, load_policy
from rebend.repbend.examples import ExampleEncoder, TrainingExample

Pooling = Literal["last", "mean"]
POINTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("label", pa.string()),  # of the answer: "safe" or "unsafe"
        ("stage", pa.string()),  # of the model: "before" or "after" the adapter
        ("x", pa.float64()),  # coordinates along the first two principal components of the states before
        ("y", pa.float64()),
    ]
)


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
    """Return the states of `answers` (schema SAFETY) before and after the adapter, as POINTS.

    The state of an answer is `hidden_states[index]` (None: the state after the final norm), averaged over the answer's
    tokens or taken at its last token; answers are cut at `max_length` tokens. Both models share one plane: the first
    two principal components of the base model's states. The table's metadata has `explained_variance` (two rates),
    `hidden_index`, `pooling` and `left_out`.

    Raises `DataError` if fewer than three answers can be used, and `ConfigError` for an index that the model does not
    have. Only one model is in memory at a time.
    """
    policy = load_policy(base, dtype)
    index = policy.n_layers if index is None else index
    layer = layer_of(index, policy.n_layers)
    encoder = ExampleEncoder(policy.tokenizer, max_length)
    encoded = [(row["label"], encoder.answer(row)) for row in answers.to_pylist()]
    labels = [label for label, example in encoded if example]
    examples = [example for _, example in encoded if example]
    if len(examples) < 3:
        raise DataError(f"{len(examples)} answers are too few to project their states; left out: {encoder.left_out}")
    before = pooled_states(policy, examples, layer, pooling)
    del policy
    after = pooled_states(load_policy(adapted, dtype), examples, layer, pooling)
    mean, axes, explained = principal_plane(before)
    points = [
        {"row_id": example.row_id, "label": label, "stage": stage, "x": x, "y": y}
        for stage, states in (("before", before), ("after", after))
        for example, label, (x, y) in zip(examples, labels, ((states - mean) @ axes.T).tolist(), strict=True)
    ]
    facts = {"explained_variance": explained, "hidden_index": index, "pooling": pooling, "left_out": encoder.left_out}
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    return pa.Table.from_pylist(points, POINTS).replace_schema_metadata(metadata)


def pooled_states(policy: Policy, examples: Sequence[TrainingExample], layer: int | str, pooling: Pooling) -> Tensor:
    """Return the state of each example's answer, `[N, D]` float64 on the CPU: mean over its tokens, or its last one."""
    spans = [range(example.n_prompt, len(example.tokens)) for example in examples]
    answers = text_states(policy, [example.tokens for example in examples], spans, layer)
    return torch.stack([states[-1].double() if pooling == "last" else states.double().mean(0) for states in answers])


def principal_plane(states: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Fit a plane to states `[N, D]`: return the mean `[D]`, axes `[2, D]`, and the rate of variance per axis.

    The sign of an axis makes its largest component positive, so that the figure has one orientation.
    """
    mean = states.mean(0)
    _, singular_values, axes = torch.linalg.svd(states - mean, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    variances = singular_values.square()
    return mean, axes * largest.sign(), (variances[:2] / variances.sum()).tolist()
