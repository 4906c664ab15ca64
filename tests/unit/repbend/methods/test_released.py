"""Adapters released by others: copied for a base model, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

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


def peft_adapter(base: Path, folder: Path, **settings: Any) -> None:
    """Write an adapter with PEFT itself."""
    model = load_policy(base).model
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **settings)).save_pretrained(folder)


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_adapter_with_whole_modules_is_refused_when_it_is_prepared(
    released: Path, tmp_path: Path, modules: list[str]
) -> None:
    peft_adapter(released / "base", tmp_path / "released", modules_to_save=modules)
    with pytest.raises(ModelError, match=rf"replaces whole modules \({', '.join(modules)}\)"):
        take_adapter(tmp_path / "released", released / "base", tmp_path / "adapter", {})
    assert not (tmp_path / "adapter").exists()


def test_adapter_with_unannounced_embeddings_is_refused(released: Path, tmp_path: Path) -> None:
    """PEFT writes resized embeddings to an adapter's file without a key in its configuration."""
    peft_adapter(released / "base", tmp_path / "released")
    file = tmp_path / "released/adapter_model.safetensors"
    whole = {"base_model.model.model.embed_tokens.weight": torch.zeros(3, 2)}
    save_file({**load_file(file), **whole}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"replaces whole modules \(embed_tokens\)"):
        take_adapter(tmp_path / "released", released / "base", tmp_path / "adapter", {})


def test_adapter_of_another_base_is_refused_when_it_is_prepared(released: Path, tmp_path: Path) -> None:
    peft_adapter(released / "base", tmp_path / "released")
    file = tmp_path / "released/adapter_model.safetensors"
    save_file({name: weight[:1] for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the adapter does not fit the model"):
        take_adapter(tmp_path / "released", released / "base", tmp_path / "adapter", {})
