"""Random adapters with rebend's `adapter.json`, for tests of merging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rebend.models.loading import fingerprint
from rebend.models.lora import adapter_weights, write_adapter

SETTINGS = {
    "method": "repbend",
    "examples": "answers",
    "paired_examples": "twins",
    "retain_chats": "chats",
    "beta": 0.5,
}


def adapted(base: Path, strength: float = 0.1, **lora: Any) -> PeftModel:
    """Return the base in float32 with a random adapter on q_proj, v_proj and down_proj; `lora` changes its settings."""
    torch.manual_seed(7)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
        | lora
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, strength)
    assert isinstance(model, PeftModel)
    return model.eval()


def make_adapter(base: Path, folder: Path, strength: float = 0.1, **lora: Any) -> Path:
    """Write that adapter as a folder."""
    folder.mkdir()
    model = adapted(base, strength, **lora)
    write_adapter(model, adapter_weights(model), folder, base.name)
    facts = {"base": base.name, "base_fingerprint": fingerprint(base), "dtype": "float32", "settings": SETTINGS}
    (folder / "adapter.json").write_text(json.dumps(facts))
    return folder
