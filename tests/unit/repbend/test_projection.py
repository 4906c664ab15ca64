"""Projection of answers' hidden states, before and after an adapter, on the plane of the base model."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import load_policy
from rebend.repbend.examples import ExampleEncoder
from rebend.repbend.merge.merge import merge_adapter
from rebend.repbend.projection import POINTS, pooled_states, principal_plane, project_hidden_states
from rebend.repbend.train import train_adapter
from tests.helpers.training_parts import make_base, pairs, samples, settings, tables

BLOCK = settings(max_step=20, lr=2.0e-3, batch_size=4)
OPTIONS = {"index": BLOCK.middle_target(), "max_length": BLOCK.max_length}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base")
    train_adapter(base, "float32", BLOCK, tables(), folder / "adapter", Checkpoints(folder / "progress"))
    merge_adapter(base, folder / "adapter", folder / "adapted", "float32")
    return base, folder / "adapted"


@pytest.fixture(scope="module")
def answers() -> pa.Table:
    return pa.concat_tables([samples(), pairs()])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_states_equal_those_of_each_answer_alone(models: tuple[Path, Path], pooling: str) -> None:
    policy = load_policy(models[0])
    encoder = ExampleEncoder(policy.tokenizer, 64)
    examples = [example for row in samples().to_pylist() if (example := encoder.answer(row))]
    pooled = pooled_states(policy, examples, 1, "last" if pooling == "last" else "mean")
    for example, state in zip(examples, pooled, strict=True):
        with torch.no_grad():
            alone = policy.model(torch.tensor([example.tokens]), output_hidden_states=True).hidden_states[2][0]
        expected = alone[-1] if pooling == "last" else alone[example.n_prompt :].mean(0)
        assert torch.allclose(state, expected.double(), atol=1e-5)


def test_plane_has_the_directions_of_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    widths = torch.tensor([1.0, 9.0, 0.5, 4.0], dtype=torch.float64)
    states = torch.randn(400, 4, generator=generator, dtype=torch.float64) * widths + 3
    mean, axes, explained = principal_plane(states)
    assert axes.abs().argmax(1).tolist() == [1, 3]
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()
    coordinates = (states - mean) @ axes.T
    shares = coordinates.var(0) / states.var(0).sum()
    assert explained == pytest.approx(shares.tolist())
    assert explained[0] > explained[1]


def test_points_hold_each_answer_before_and_after(models: tuple[Path, Path], answers: pa.Table) -> None:
    points = project_hidden_states(*models, answers, "float32", **OPTIONS)
    assert points.schema.equals(POINTS)
    assert points["stage"].to_pylist() == ["before"] * 12 + ["after"] * 12
    assert points["row_id"].to_pylist() == 2 * answers["row_id"].to_pylist()
    assert points["label"].to_pylist() == 2 * answers["label"].to_pylist()
    metadata = {key.decode(): json.loads(value) for key, value in points.schema.metadata.items()}
    assert metadata["hidden_index"] == 2
    assert 0 < sum(metadata["explained_variance"]) <= 1
    before = points.filter(pc.field("stage") == "before").to_pandas()
    assert abs(before[["x", "y"]].mean()).max() < 1e-9  # the plane is centred on the base's states


def test_points_of_an_unchanged_model_stay_the_same(models: tuple[Path, Path], answers: pa.Table) -> None:
    points = project_hidden_states(models[0], models[0], answers, "float32", **OPTIONS).to_pandas()
    assert (points["x"][:12].to_numpy() == points["x"][12:].to_numpy()).all()


def test_unsafe_answers_move_further_than_safe_ones(models: tuple[Path, Path], answers: pa.Table) -> None:
    points = project_hidden_states(*models, answers, "float32", **OPTIONS).to_pandas()
    moved = points[12:].reset_index()[["x", "y"]] - points[:12][["x", "y"]]
    distance = (moved**2).sum(axis=1) ** 0.5
    unsafe = points["label"][:12] == "unsafe"
    assert distance[unsafe].mean() > distance[~unsafe].mean()


def test_too_few_answers_are_refused(models: tuple[Path, Path], answers: pa.Table) -> None:
    with pytest.raises(DataError, match="2 answers are too few"):
        project_hidden_states(*models, answers.slice(0, 2), "float32", **OPTIONS)
