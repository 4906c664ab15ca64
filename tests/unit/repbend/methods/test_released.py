"""Adapters released by others: copied for a base model, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import load_policy
from rebend.repbend.merge.merge import merge_adapter
from rebend.repbend.methods.released import take_adapter
from rebend.repbend.train import train_adapter
from tests.helpers.training_parts import make_base, settings, tables


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and an adapter folder with PEFT's two files only."""
    folder = tmp_path_factory.mktemp("released")
    base = make_base(folder / "base")
    train_adapter(base, "float32", settings(max_step=1), tables(), folder / "adapter", Checkpoints(folder / "p"))
    (folder / "adapter" / "adapter.json").unlink()
    (folder / "adapter" / "metrics.parquet").unlink()
    return folder


def test_released_adapter_can_be_merged(released: Path, tmp_path: Path) -> None:
    facts = take_adapter(released / "adapter", released / "base", tmp_path / "adapter", {"method": "released"})
    assert facts["stated_base"] == "base"
    merge_adapter(released / "base", tmp_path / "adapter", tmp_path / "merged", "float32")
    assert load_policy(tmp_path / "merged").fingerprint != facts["base_fingerprint"]


def test_a_folder_without_an_adapter_is_refused(released: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no adapter_config.json and no adapter_model.safetensors"):
        take_adapter(released / "base", released / "base", tmp_path / "adapter", {})
    assert not (tmp_path / "adapter").exists()
