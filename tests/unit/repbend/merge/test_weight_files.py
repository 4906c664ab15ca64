"""Weights on disk, one tensor at a time, compared with the libraries' own reading and writing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebend.errors import ModelError
from rebend.repbend.merge.weight_files import main_dtype, stored_tensors, write_weights


def tensors() -> dict[str, torch.Tensor]:
    return {
        "b.weight": torch.randn(7, 5).bfloat16(),
        "a.weight": torch.randn(3, 2, 4).bfloat16(),
        "a.scalar": torch.tensor(2.5).bfloat16(),
        "a.empty": torch.zeros(0, 4).bfloat16(),
        "router.bias": torch.randn(3),
        "mask": torch.tensor([True, False, True]),
        "ids": torch.arange(5),
    }


def test_copy_equals_the_file_of_safetensors_byte_by_byte(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    out.mkdir()
    write_weights(out, stored_tensors(tmp_path), lambda tensor: tensor.dtype, lambda tensor: tensor.read())
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_types_can_change_and_views_are_written_correctly(tmp_path: Path) -> None:
    saved = tensors()
    save_file(saved, tmp_path / "model.safetensors")
    stored, out = stored_tensors(tmp_path), tmp_path / "out"
    assert main_dtype(stored) == torch.bfloat16
    out.mkdir()
    write_weights(
        out,
        stored,
        lambda tensor: torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype,
        lambda tensor: tensor.read().float().mT.contiguous().mT if tensor.name == "b.weight" else _wide(tensor.read()),
    )
    for name, value in load_file(out / "model.safetensors").items():
        assert value.dtype == (torch.float32 if saved[name].dtype == torch.bfloat16 else saved[name].dtype)
        assert torch.equal(value, saved[name].to(value.dtype)), name


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value


@pytest.mark.parametrize("wrong", [lambda value: value.double(), lambda value: value[:1]])
def test_tensor_of_another_type_or_shape_than_the_header_is_refused(tmp_path: Path, wrong: Callable) -> None:
    save_file({"a": torch.randn(3, 2)}, tmp_path / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ModelError, match=r"a: is torch.float\d\d \(\d, 2\), not torch.float32 \(3, 2\)"):
        write_weights(out, stored_tensors(tmp_path), lambda tensor: tensor.dtype, lambda t: wrong(t.read()))


def test_only_files_of_the_index_are_read_and_several_files_get_an_index(tmp_path: Path) -> None:
    parts = {"one.safetensors": {"a": torch.ones(2)}, "two.safetensors": {"b": torch.zeros(3)}}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    save_file({"c": torch.ones(9)}, tmp_path / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    out = tmp_path / "out"
    out.mkdir()
    write_weights(out, stored_tensors(tmp_path), lambda tensor: tensor.dtype, lambda tensor: tensor.read())
    written = json.loads((out / "model.safetensors.index.json").read_text())
    assert written == {
        "metadata": {"total_size": 20},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    assert torch.equal(load_file(out / "model-00002-of-00002.safetensors")["b"], torch.zeros(3))


def test_unreadable_and_quantised_files_are_named_in_the_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"model.safetensors: not a readable file of weights"):
        stored_tensors(tmp_path)
    save_file({"a": torch.ones(2, 2).to(torch.float8_e4m3fn)}, file)
    with pytest.raises(ModelError, match="'a' is stored as F8_E4M3"):
        stored_tensors(tmp_path)
