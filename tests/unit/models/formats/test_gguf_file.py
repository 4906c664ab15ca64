"""GGUF files: weights, tokenizer and chat template of the converted checkpoint, and files that cannot be converted."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from rebend.errors import ModelError
from rebend.io.files import read_json
from rebend.models.chat import encode_text, prompt_text
from rebend.models.formats.gguf_file import convert_gguf
from rebend.models.loading import check_checkpoint, fingerprint, load_policy, set_template
from rebend.repbend.merge.model_card import base_licence, model_card
from tests.helpers.gguf_files import gguf_weights, small_llama, write_gguf
from tests.helpers.small_policy import PROMPTS, tokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")


def converted(source: Path, target: Path, licence: str | None = None) -> dict:
    target.mkdir()
    return convert_gguf(source, target, licence)


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    """Return the logits [1, T, V] of a text of special and ordinary tokens."""
    text = prompt_text(tokenizer(), PROMPTS[1])
    return model(torch.tensor([encode_text(tokenizer(), text)])).logits


def test_converted_model_has_the_logits_and_the_tokenizer_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchClass"}')  # not part of the GGUF file
    facts = converted(write_gguf(tmp_path / "m.gguf"), tmp_path / "model")
    assert facts["architecture"] == "llama" and facts["quantisation"] == "F32"
    assert facts["weights_by_type"] == {"F32": sum(weight.numel() for weight in small_llama().state_dict().values())}
    check_checkpoint(tmp_path / "model", n_layers=2)
    policy = load_policy(tmp_path / "model")
    assert torch.equal(logits(policy.model), logits(small_llama()))
    for turns in PROMPTS:
        text = prompt_text(tokenizer(), turns)
        assert prompt_text(policy.tokenizer, turns) == text
        assert encode_text(policy.tokenizer, text) == encode_text(tokenizer(), text)
    assert policy.tokenizer.eos_token == tokenizer().eos_token
    written = "".join(path.read_text() for path in (tmp_path / "model").glob("*config.json"))
    assert str(tmp_path) not in written and "quantization_config" not in written and "/tmp" not in written


def dequantised_q4_1(stored: bytes, shape: torch.Size) -> Tensor:
    """Return values of Q4_1 by a plain loop: per 32 values d and m (half precision), then 16 bytes of two values."""
    values: list[float] = []
    for start in range(0, len(stored), 20):
        d, m = struct.unpack("<ee", stored[start : start + 4])
        packed = stored[start + 4 : start + 20]
        values += [d * (byte & 15) + m for byte in packed] + [d * (byte >> 4) + m for byte in packed]
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def test_quantised_weights_are_those_of_the_file_and_the_card_names_their_type(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("terms\n")
    facts = converted(write_gguf(tmp_path / "m.gguf", "Q4_1"), tmp_path / "model", "MIT")
    blocks = sum(
        weight.numel() for name, weight in gguf_weights().items() if name.startswith("blk") and weight.ndim == 2
    )
    assert facts["weights_by_type"]["Q4_1"] == blocks and facts["quantisation"] == "Q4_1"
    weights = load_policy(tmp_path / "model").model.state_dict()
    source = gguf_weights()["blk.1.ffn_up.weight"]
    stored = gguf.quantize(source.numpy(), gguf.GGMLQuantizationType.Q4_1).tobytes()
    expected = dequantised_q4_1(stored, source.shape)
    found = weights["model.layers.1.mlp.up_proj.weight"]
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert 0 < (found - source).abs().max() < 0.2  # rounded to 16 steps per block
    assert torch.equal(weights["lm_head.weight"], gguf_weights()["output.weight"])
    assert (tmp_path / "model/LICENSE").read_text() == "terms\n"
    assert base_licence(tmp_path / "model").name == "mit"
    card = model_card(tmp_path / "model", {"settings": {"method": "sft"}}, "f", "float32")
    assert "The base model's weights were converted from Q4_1 and keep its rounding." in card


def test_two_conversions_have_one_fingerprint_and_other_weights_have_another(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "Q8_0")
    converted(source, tmp_path / "a")
    converted(source, tmp_path / "b")
    converted(write_gguf(tmp_path / "n.gguf"), tmp_path / "c")
    first, second, third = (fingerprint(tmp_path / name) for name in "abc")
    assert first == second != third


def test_tied_embeddings_stay_one_matrix(tmp_path: Path) -> None:
    converted(write_gguf(tmp_path / "m.gguf", without=("output.weight",)), tmp_path / "model")
    assert read_json(tmp_path / "model/config.json")["tie_word_embeddings"] is True
    model = load_policy(tmp_path / "model").model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, gguf_weights()["token_embd.weight"])


def test_file_without_a_template_needs_one(tmp_path: Path) -> None:
    converted(write_gguf(tmp_path / "m.gguf", template=False), tmp_path / "model")
    with pytest.raises(ModelError, match="has no chat template; name one with the model's key `chat_template`"):
        check_checkpoint(tmp_path / "model")
    set_template(tmp_path / "model", tokenizer().chat_template)
    check_checkpoint(tmp_path / "model")


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read a GGUF file of the architecture 'invented'"):
        converted(write_gguf(tmp_path / "m.gguf", architecture="invented"), tmp_path / "model")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", without=("blk.1.ffn_up.weight",))
    with pytest.raises(ModelError, match=r"1 weights of the model are absent .*layers\.1\.mlp\.up_proj"):
        converted(source, tmp_path / "model")


def test_quantisation_that_cannot_be_dequantised_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    block = numpy.zeros((2, 292), dtype=numpy.uint8)  # Q8_K has 292 bytes per block of 256
    writer.add_tensor("output.weight", block, raw_dtype=gguf.GGMLQuantizationType.Q8_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="the quantisation Q8_K, which cannot be read; choose another file"):
        converted(tmp_path / "m.gguf", tmp_path / "model")


def test_unknown_number_of_a_quantisation_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    content = bytearray(path.read_bytes())
    place = content.index(b"output.weight") + len(b"output.weight") + 4 + 2 * 8  # after number of dimensions, and two
    assert content[place : place + 4] == struct.pack("<I", 0)  # F32
    content[place : place + 4] = struct.pack("<I", 999)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"or of an unknown quantisation .*999"):
        converted(path, tmp_path / "model")


@pytest.mark.parametrize("kept", [0, 3, 1000, -500])
def test_incomplete_file_is_refused(tmp_path: Path, kept: int) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    source.write_bytes(source.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"m\.gguf: no GGUF file that can be read"):
        converted(source, tmp_path / "model")
