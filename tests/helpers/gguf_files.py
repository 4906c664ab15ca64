"""A random Llama in a GGUF file, and a wheel that holds it, for tests of sources of models."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tests.helpers.small_policy import config, tokenizer

N_HEADS = 4
LAYER = {  # names of a block's weights in transformers -> in GGUF
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PACKAGE = "tiny-llama-in-a-package"


@functools.cache
def small_llama() -> LlamaForCausalLM:
    """Return a random Llama of two blocks; a test must not change it."""
    torch.manual_seed(3)
    return LlamaForCausalLM(config()).eval()


def gguf_weights() -> dict[str, Tensor]:
    """Return the weights by their names in GGUF, with rotary dimensions in llama.cpp's order (pairs of neighbours)."""
    weights = {}
    for name, weight in small_llama().state_dict().items():
        stem = name.removesuffix(".weight")
        if stem in OUTER:
            weights[f"{OUTER[stem]}.weight"] = weight
            continue
        block, part = stem.removeprefix("model.layers.").split(".", 1)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            weight = weight.reshape(N_HEADS, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        weights[f"blk.{block}.{LAYER[part]}.weight"] = weight
    return weights


def write_gguf(
    path: Path,
    quantised: str | None = None,
    *,
    architecture: str = "llama",
    without: tuple[str, ...] = (),
    template: bool = True,
) -> Path:
    """Write `small_llama` with its tokenizer; the matrices of its blocks have the type `quantised` (e.g. "Q8_0")."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    _write_sizes(writer)
    _write_tokenizer(writer, template)
    for name, weight in gguf_weights().items():
        if name in without:
            continue
        values = weight.detach().numpy()
        kind = (
            gguf.GGMLQuantizationType[quantised] if quantised and name.startswith("blk") and weight.ndim == 2 else None
        )
        writer.add_tensor(name, gguf.quantize(values, kind) if kind else values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: Any) -> None:
    sizes = small_llama().config
    writer.add_context_length(sizes.max_position_embeddings)
    writer.add_embedding_length(sizes.hidden_size)
    writer.add_block_count(sizes.num_hidden_layers)
    writer.add_feed_forward_length(sizes.intermediate_size)
    writer.add_head_count(sizes.num_attention_heads)
    writer.add_head_count_kv(sizes.num_key_value_heads)
    writer.add_layer_norm_rms_eps(sizes.rms_norm_eps)
    writer.add_rope_freq_base(sizes.rope_parameters["rope_theta"])
    writer.add_vocab_size(sizes.vocab_size)
    writer.add_name("tiny")


def _write_tokenizer(writer: Any, template: bool) -> None:
    pieces = tokenizer()
    state = json.loads(pieces.backend_tokenizer.to_str())
    special = {token["id"] for token in state["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces.convert_ids_to_tokens(range(len(pieces))))
    writer.add_token_types([3 if number in special else 1 for number in range(len(pieces))])  # 3: control, 1: normal
    writer.add_token_merges([" ".join(merge) for merge in state["model"]["merges"]])
    writer.add_eos_token_id(pieces.eos_token_id)
    writer.add_pad_token_id(pieces.pad_token_id)
    if template:
        writer.add_chat_template(pieces.chat_template)


def write_wheel(folder: Path, files: dict[str, bytes | Path], version: str = "1.0") -> Path:
    """Write a wheel of PACKAGE that needs a package which does not exist; return its path."""
    stem = f"{PACKAGE.replace('-', '_')}-{version}"
    metadata = (
        f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\nLicense: MIT\n"
        "Requires-Dist: no-such-package-anywhere\n"
    )
    about = {
        "METADATA": metadata, "LICENSE": "do as you like\n", "RECORD": "",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
        for name, text in about.items():
            archive.writestr(f"{stem}.dist-info/{name}", text)
    return path
