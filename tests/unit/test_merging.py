"""Merging a bend: a complete checkpoint that is the base with its adapter, or an error."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rebend.adapters import load_adapter
from rebend.bends import train_bend
from rebend.checkpoints import Checkpoints
from rebend.errors import ModelError
from rebend.merging import Equivalence, check_equivalence, merge_bend, prompt_logits
from rebend.models import check_checkpoint, fingerprint, load_policy
from tests.unit.bend_parts import make_base, settings, tables


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("models") / "base")
    GenerationConfig(max_new_tokens=17, eos_token_id=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bend(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bends")
    strong = settings(max_step=8, lr=1.0e-2)
    train_bend(base, "float32", strong, tables(), folder / "bend", Checkpoints(folder / "progress"))
    return folder / "bend"


def refuse(*args: Any, **options: Any) -> None:
    raise AssertionError("asked for the network")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_merged_model_is_the_base_with_its_adapter(base: Path, bend: Path, tmp_path: Path, dtype: str) -> None:
    facts = merge_bend(base, bend, tmp_path / "merged", dtype)
    policy = load_policy(base, dtype)
    plain = torch.cat(prompt_logits(policy.tokenizer, policy.model))
    adapted = torch.cat(prompt_logits(policy.tokenizer, load_adapter(policy, bend)))
    merged_policy = load_policy(tmp_path / "merged", dtype)
    merged = torch.cat(prompt_logits(merged_policy.tokenizer, merged_policy.model))
    effect, rest = (adapted - plain).abs().max(), (adapted - merged).abs().max()
    assert rest < (1e-4 if dtype == "float32" else 0.2) * effect
    assert facts["max_logit_difference"] == pytest.approx(float(rest), rel=1e-6)
    assert facts["fingerprint"] == fingerprint(tmp_path / "merged") != fingerprint(base)
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as weights:
        names = weights.keys()
        assert weights.get_tensor(names[0]).dtype == getattr(torch, dtype)
    assert not [name for name in names if "lora" in name]


def test_the_merged_folder_is_a_complete_portable_checkpoint(base: Path, bend: Path, tmp_path: Path) -> None:
    merge_bend(base, bend, tmp_path / "merged", "float32")
    merged = tmp_path / "merged"
    check_checkpoint(merged, n_layers=3)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(merged)
    assert new.chat_template == old.chat_template
    assert new.get_vocab() == old.get_vocab()
    assert GenerationConfig.from_pretrained(merged).max_new_tokens == 17
    names = {name for name, _ in AutoModelForCausalLM.from_pretrained(merged).named_parameters()}
    assert names == {name for name, _ in AutoModelForCausalLM.from_pretrained(base).named_parameters()}
    card = (merged / "README.md").read_text()
    assert "base_model: base" in card
    assert "- beta: 0.5" in card
    assert all(str(tmp_path) not in file.read_text() for file in merged.glob("*.json"))
    assert not list(merged.glob("adapter*"))


def test_merging_again_gives_the_same_weights_and_fingerprint(base: Path, bend: Path, tmp_path: Path) -> None:
    first = merge_bend(base, bend, tmp_path / "a", "float32")
    assert merge_bend(base, bend, tmp_path / "b", "float32") == first
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_bend_of_another_base_is_refused(bend: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="trained on a base with fingerprint"):
        merge_bend(other, bend, tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def test_an_incomplete_adapter_is_refused(base: Path, bend: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bend"
    broken.mkdir()
    for name in ("bend.json", "adapter_config.json"):
        (broken / name).write_text((bend / name).read_text())
    with pytest.raises(ModelError, match="not a readable adapter"):
        merge_bend(base, broken, tmp_path / "merged", "float32")
    weights = load_file(bend / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, broken / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit the model; 1 weights differ"):
        merge_bend(base, broken, tmp_path / "merged", "float32")


def test_a_merge_that_goes_wrong_fails_and_leaves_nothing(
    base: Path, bend: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, adapter: 1.2 * right(self, adapter))
    with pytest.raises(ModelError, match="not the base with its adapter"):
        merge_bend(base, bend, tmp_path / "merged", "float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("difference", "agreement"), [(0.5, 1.0), (0.0, 0.5), (float("nan"), 1.0)])
def test_the_check_fails_on_logits_on_choices_and_on_nan(difference: float, agreement: float) -> None:
    with pytest.raises(ModelError, match="over 40 positions"):
        check_equivalence(Equivalence(difference, 10.0, agreement, 40), "float32")


def test_the_index_of_a_sharded_base_is_not_copied(base: Path, bend: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(sharded, max_shard_size="40KB")
    for file in base.iterdir():
        if file.suffix in (".json", ".jinja") and not (sharded / file.name).exists():
            (sharded / file.name).write_bytes(file.read_bytes())
    assert (sharded / "model.safetensors.index.json").exists()
    merge_bend(sharded, bend, tmp_path / "merged", "float32")
    assert json.loads((tmp_path / "merged" / "fingerprint.json").read_text())
    assert not (tmp_path / "merged" / "model.safetensors.index.json").exists()
    check_checkpoint(tmp_path / "merged")
