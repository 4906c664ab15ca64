"""Arithmetic on adapters, compared with arithmetic on merged weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from rebend.config.adapters import TaskArithmeticBlock, trained_adapter
from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_json
from rebend.repbend.merge.merge import merge_adapter
from rebend.repbend.methods.task_arithmetic import combine_adapters, combined
from rebend.repbend.train import train_adapter
from tests.helpers.training_parts import configuration, make_base, settings, tables

RANK, ALPHA = 4, 6
FACTORS = {"safe": 0.5, "unsafe": -0.1}  # the RepBend paper's
SUM = TaskArithmeticBlock.model_validate(
    {"method": "task_arithmetic", "parts": [{"adapter": name, "factor": factor} for name, factor in FACTORS.items()]}
)


def base() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(configuration(40)).double()


def adapted(rank: int = RANK, alpha: int = ALPHA) -> PeftModel:
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(base(), config, autocast_adapter_dtype=False)
    assert isinstance(model, PeftModel)
    return model


def trained(seed: int) -> dict[str, Tensor]:
    """Return random weights of an adapter, by PEFT's names."""
    generator = torch.Generator().manual_seed(seed)
    fresh = get_peft_model_state_dict(adapted())
    return {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in fresh.items()}


def merged(weights: dict[str, Tensor], parts: int = 1) -> dict[str, Tensor]:
    """Return the weights of the model merged with an adapter of `parts` times the rank."""
    model = adapted(RANK * parts, ALPHA * parts)
    set_peft_model_state_dict(model, weights)
    whole: Any = model.merge_and_unload()
    return dict(whole.state_dict())


def test_combined_adapter_adds_the_sum_of_the_changes() -> None:
    """With the factors of the RepBend paper: 0.5 for safe answers, -0.1 for unsafe ones."""
    safe, unsafe = trained(1), trained(2)
    before = copy.deepcopy(safe)
    start, tuned, spoilt = base().state_dict(), merged(safe), merged(unsafe)
    both = merged(combined([(safe, 0.5), (unsafe, -0.1)]), parts=2)
    for name in start:
        expected = start[name] + 0.5 * (tuned[name] - start[name]) - 0.1 * (spoilt[name] - start[name])
        torch.testing.assert_close(both[name], expected, atol=1e-12, rtol=0)
    assert len([name for name in start if not torch.equal(start[name], both[name])]) == 3 * 3
    assert all(torch.equal(safe[name], before[name]) for name in safe)


def test_other_weights_and_other_modules_are_refused() -> None:
    weights = trained(1)
    with pytest.raises(ModelError, match="magnitude"):
        combined([({**weights, "base_model.model.q_proj.lora_magnitude_vector.weight": torch.ones(2)}, -1.0)])
    fewer = dict(list(weights.items())[2:])
    with pytest.raises(ModelError, match="same modules"):
        combined([(weights, 1.0), (fewer, 1.0)])


@pytest.fixture(scope="module")
def trained_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and adapters trained on its safe and on its unsafe answers."""
    folder = tmp_path_factory.mktemp("trained")
    make_base(folder / "base")
    for name in FACTORS:
        train(folder / "base", folder / name, answers=name)
    return folder


def train(base: Path, out: Path, **changes: Any) -> None:
    keys = ("examples", "paired_examples", "retain_chats", "batch_size", "lora_r", "lora_alpha", "max_length")
    common = {key: getattr(settings(), key) for key in keys}
    block = {**common, "method": "sft", "max_step": 3, "lr": 5.0e-3, "retain_weight": 0.0, **changes}
    train_adapter(
        base, "float32", trained_adapter(block), tables(), out, Checkpoints(out.with_name(f"{out.name}_progress"))
    )


def test_merged_combination_equals_base_plus_sum_of_parts(trained_parts: Path, tmp_path: Path) -> None:
    base = trained_parts / "base"
    combine_adapters([trained_parts / name for name in FACTORS], SUM, tmp_path / "sum")
    weights = {}
    for name, adapter in {"sum": tmp_path / "sum", **{name: trained_parts / name for name in FACTORS}}.items():
        merge_adapter(base, adapter, tmp_path / "merged" / name, "float32")
        weights[name] = load_file(tmp_path / "merged" / name / "model.safetensors")
    start = load_file(base / "model.safetensors")
    moved = [name for name in start if not torch.equal(start[name], weights["sum"][name])]
    assert len(moved) == 3 * 7
    for name, before in start.items():
        expected = before + sum(factor * (weights[part][name] - before) for part, factor in FACTORS.items())
        torch.testing.assert_close(weights["sum"][name], expected, atol=1e-6, rtol=0)


def test_adapter_file_of_a_combination_holds_its_parts(trained_parts: Path, tmp_path: Path) -> None:
    folders = [trained_parts / name for name in FACTORS]
    combine_adapters(folders, SUM, tmp_path / "sum")
    facts = read_json(tmp_path / "sum" / "adapter.json")
    assert facts["settings"] == SUM.model_dump()
    assert [part["settings"]["answers"] for part in facts["parts"]] == ["safe", "unsafe"]
    assert facts["base_fingerprint"] == read_json(folders[0] / "adapter.json")["base_fingerprint"]
    combine_adapters(folders, SUM, tmp_path / "again")
    for file in (tmp_path / "sum").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_adapters_of_different_bases_or_shapes_are_refused(trained_parts: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=1)
    train(other, tmp_path / "foreign", answers="unsafe", max_step=1)
    with pytest.raises(ModelError, match=r"foreign was trained on a base with fingerprint"):
        combine_adapters([trained_parts / "safe", tmp_path / "foreign"], SUM, tmp_path / "sum")
    train(trained_parts / "base", tmp_path / "wide", lora_alpha=4, max_step=1)
    with pytest.raises(ModelError, match=r"wide and .*safe differ in lora_alpha"):
        combine_adapters([trained_parts / "safe", tmp_path / "wide"], SUM, tmp_path / "sum")
    assert not (tmp_path / "sum").exists()
