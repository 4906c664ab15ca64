"""Checkpoints as people have them: multimodal wrappers, missing and misplaced special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
    SiglipVisionConfig,
)

from rebend.errors import ModelError
from rebend.models.layers import decoder_blocks
from rebend.models.loading import check_checkpoint, link_checkpoint, load_policy, load_tokenizer, plain_checkpoint
from tests.helpers.small_policy import config as small_config
from tests.helpers.small_policy import tokenizer

VOCABULARY = 340
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
# The vision model has as many blocks as the text model, so that taking the wrong ones would be noticed.
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
QWEN_VISION = {"depth": 3, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
WRAPPED: dict[str, Any] = {
    "gemma3": lambda: Gemma3Config(
        text_config=Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=6), vision_config=SiglipVisionConfig(**VISION),
        mm_tokens_per_image=4, image_token_index=331, boi_token_index=332, eoi_token_index=333,
    ),
    "mistral3": lambda: Mistral3Config(
        text_config=MistralConfig(**SIZES, sliding_window=6), image_token_index=331,
        vision_config=PixtralVisionConfig(**VISION, head_dim=8),
    ),
    "llava": lambda: LlavaConfig(
        text_config=LlamaConfig(**SIZES), vision_config=CLIPVisionConfig(**VISION), image_token_index=331
    ),
    "qwen2_5_vl": lambda: Qwen2_5_VLConfig(
        text_config={**SIZES, "rope_parameters": ROPE, "tie_word_embeddings": True}, vision_config=QWEN_VISION,
        tie_word_embeddings=True,
    ),
    "qwen3_vl": lambda: Qwen3VLConfig(
        text_config={**SIZES, "head_dim": 8, "rope_parameters": ROPE},
        vision_config={**QWEN_VISION, "deepstack_visual_indexes": [0, 1]},
    ),
}  # fmt: skip
TEXT_CLASSES = {
    "gemma3": "Gemma3ForCausalLM", "mistral3": "MistralForCausalLM", "llava": "LlamaForCausalLM",
    "qwen2_5_vl": "Qwen2ForCausalLM", "qwen3_vl": "Qwen3ForCausalLM",
}  # fmt: skip


def prepared(source: Path, target: Path) -> dict[str, Any]:
    """Do what the script of `prepare_model` does."""
    target.mkdir()
    link_checkpoint(source, target)
    facts = plain_checkpoint(target)
    check_checkpoint(target, n_layers=3)
    return facts


@pytest.fixture(params=sorted(WRAPPED))
def wrapped(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(WRAPPED[request.param]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from the initial values, so that each weight matters
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "source", max_shard_size="40KB")
    tokenizer().save_pretrained(tmp_path / "source")
    return request.param, model, tmp_path / "source"


def test_text_model_of_a_multimodal_checkpoint_has_its_logits(wrapped: Any, tmp_path: Path) -> None:
    name, model, source = wrapped
    before = {file.name: file.stat().st_size for file in source.iterdir()}
    assert prepared(source, tmp_path / "model") == {"taken_out_of": name}
    policy = load_policy(tmp_path / "model")
    assert type(policy.model).__name__ == TEXT_CLASSES[name]
    assert (policy.n_layers, policy.hidden_size) == (3, 32)
    ids = torch.arange(20, 40)[None]  # more tokens than a sliding window
    with torch.no_grad():
        expected, found = model(input_ids=ids).logits, policy.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert all("vision" not in key and "visual" not in key for key in policy.model.state_dict())
    assert len(decoder_blocks(policy.model)) == 3
    assert {file.name: file.stat().st_size for file in source.iterdir()} == before


def test_multimodal_checkpoint_without_a_text_weight_is_refused(tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_config(WRAPPED["llava"]())
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.2.mlp.up_proj" not in name}
    model.save_pretrained(tmp_path / "source", state_dict=state)
    tokenizer().save_pretrained(tmp_path / "source")
    with pytest.raises(ModelError, match=r"text model of llava cannot be taken out.*layers\.2\.mlp\.up_proj"):
        prepared(tmp_path / "source", tmp_path / "model")


def plain_source(folder: Path, **changes: Any) -> Path:
    """Write a Llama of three blocks with its tokenizer; `changes` go into config.json."""
    LlamaForCausalLM(small_config(num_hidden_layers=3)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    edit(folder / "config.json", **changes)
    return folder


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None deletes a key."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize("pad", [330, 32_000, -1])
def test_pad_token_beyond_the_vocabulary_is_replaced_in_the_prepared_copy(tmp_path: Path, pad: int) -> None:
    source = plain_source(tmp_path / "source", pad_token_id=pad)
    assert small_config().vocab_size <= 330
    assert prepared(source, tmp_path / "model") == {"replaced_pad_token_id": pad}
    policy = load_policy(tmp_path / "model")
    assert policy.model.config.pad_token_id == policy.tokenizer.pad_token_id == tokenizer().pad_token_id
    assert json.loads((source / "config.json").read_text(encoding="utf-8"))["pad_token_id"] == pad
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").model.embed_tokens.padding_idx is not None


def test_checkpoint_with_a_pad_token_inside_the_vocabulary_stays_as_it_is(tmp_path: Path) -> None:
    source = plain_source(tmp_path / "source")
    assert prepared(source, tmp_path / "model") == {}
    assert (tmp_path / "model/config.json").read_bytes() == (source / "config.json").read_bytes()


def test_added_tokens_beyond_the_embeddings_are_named(tmp_path: Path) -> None:
    source = plain_source(tmp_path / "source")
    larger = load_tokenizer(source)
    size = len(larger)
    larger.add_special_tokens({"pad_token": "[PAD]"})
    larger.save_pretrained(source)
    with pytest.raises(ModelError, match=rf"has {size} embeddings.*'\[PAD\]' \({size}\); added tokens without an emb"):
        prepared(source, tmp_path / "model")


def without_special_tokens(source: Path) -> None:
    edit(source / "tokenizer_config.json", pad_token=None, eos_token=None)
    if (source / "special_tokens_map.json").exists():
        (source / "special_tokens_map.json").unlink()


def test_tokenizer_with_neither_pad_nor_eos_takes_the_configured_end(tmp_path: Path) -> None:
    source = plain_source(tmp_path / "source")
    without_special_tokens(source)
    edit(source / "generation_config.json", eos_token_id=[tokenizer().eos_token_id, 7])
    prepared(source, tmp_path / "model")
    found = load_policy(tmp_path / "model").tokenizer
    assert found.eos_token_id == found.pad_token_id == tokenizer().eos_token_id


def test_checkpoint_without_any_end_is_refused(tmp_path: Path) -> None:
    source = plain_source(tmp_path / "source", eos_token_id=None, pad_token_id=None)
    without_special_tokens(source)
    edit(source / "generation_config.json", eos_token_id=None, pad_token_id=None)
    with pytest.raises(ModelError, match="neither a pad token nor an EOS token"):
        prepared(source, tmp_path / "model")
