"""The training loop: resuming, metrics, written files, architectures and memory settings."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rebend.config.adapters import trained_adapter
from rebend.errors import ConfigError, ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_parquet
from rebend.models.loading import fingerprint, load_policy
from rebend.models.lora import linear_modules
from rebend.repbend.examples import TrainingExamples, load_training_examples
from rebend.repbend.train import AdapterTrainer, train_adapter
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.training_parts import N_LAYERS, configuration, make_base, settings, tables, tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def data() -> TrainingExamples:
    return load_training_examples(tokenizer(), *tables(), max_length=64)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    train_adapter(base, "float32", settings(), tables(), folder / "adapter", Checkpoints(folder / "progress"))
    return folder / "adapter"


class StoppedAt(Checkpoints):
    """Checkpoints that call `act` after a number of steps."""

    def __init__(self, directory: Path, step: int, act: Callable[[], None]) -> None:
        super().__init__(directory, every_seconds=0.0)
        self.steps_left = step
        self.act = act

    def after_step(self, make_state: Callable[[], dict[str, Any]], **ranks: Any) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.act()
        super().after_step(make_state, **ranks)


def end_like_sigkill() -> None:
    """End between a step and its checkpoint, as SIGKILL does."""
    raise KeyboardInterrupt


def send_sigterm() -> None:
    """Send SIGTERM to this process, as Slurm does."""
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("act", [end_like_sigkill, send_sigterm])
@pytest.mark.parametrize("step", [1, 4])
def test_resumed_training_ends_in_the_same_bytes(
    base: Path, adapter: Path, tmp_path: Path, step: int, act: Callable[[], None]
) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_adapter(base, "float32", settings(), tables(), tmp_path / "adapter", StoppedAt(tmp_path / "p", step, act))
    assert not (tmp_path / "adapter").exists()
    assert Checkpoints(tmp_path / "p").path.exists() == (act is send_sigterm or step > 1)
    torch.rand(3)  # the generator's state at the second start must not matter
    train_adapter(base, "float32", settings(), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert sorted(file.name for file in adapter.iterdir()) == sorted(
        file.name for file in (tmp_path / "adapter").iterdir()
    )
    for file in adapter.iterdir():
        assert file.read_bytes() == (tmp_path / "adapter" / file.name).read_bytes(), file.name


def test_training_does_not_change_the_callers_random_state(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train_adapter(base, "float32", settings(max_step=1), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert torch.equal(torch.rand(2), expected)


def test_metrics_have_a_row_per_step_and_start_with_norms_of_zero(adapter: Path) -> None:
    rows = read_parquet(adapter / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["unsafe_norm"] > 0.1
    # Dropout acts on the adapter only, and a fresh adapter's output is zero: no state has moved.
    assert (rows[0]["safe_norm"], rows[0]["unsafe_norm"], rows[0]["retain_kl"]) == (0.0, 0.0, 0.0)
    for row in rows:
        total = 0.5 * row["safe_norm"] - 0.5 * row["unsafe_norm"] + 0.1 * row["unsafe_cosine"] + 0.3 * row["retain_kl"]
        assert row["total"] == pytest.approx(total, rel=1e-5)
        assert row["grad_norm"] > 0
        assert row["lr"] == 1e-3


def test_unsafe_states_move_more_than_safe_ones(base: Path, tmp_path: Path) -> None:
    longer = settings(max_step=25, batch_size=4, epsilon=1.0, alpha=1.0)
    train_adapter(base, "float32", longer, tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    last = read_parquet(tmp_path / "adapter" / "metrics.parquet").to_pylist()[-1]
    assert last["unsafe_norm"] > 2 * last["safe_norm"]


def test_the_adapter_is_written_without_network_and_peft_loads_it(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    train_adapter(base, "float32", settings(), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    loaded = {name: weight for name, weight in model.state_dict().items() if "lora_" in name}
    saved = load_file(adapter / "adapter_model.safetensors")
    assert len(saved) == 2 * 7 * N_LAYERS  # A and B of seven linear modules in each block
    assert {name.replace(".default", "") for name in loaded} == set(saved)
    assert all(torch.equal(weight, saved[name.replace(".default", "")]) for name, weight in loaded.items())
    assert any(weight.any() for name, weight in saved.items() if "lora_B" in name)


def test_adapter_file_names_the_base_and_no_path(base: Path, adapter: Path) -> None:
    facts = json.loads((adapter / "adapter.json").read_text())
    assert facts["base_fingerprint"] == fingerprint(base)
    assert facts["settings"]["lora_r"] == 4
    assert all(str(base.parent) not in file.read_text() for file in adapter.glob("*.json"))


def test_only_the_chosen_blocks_get_an_adapter(base: Path, tmp_path: Path) -> None:
    block = settings(transform_layers=[1], max_step=1)
    train_adapter(base, "float32", block, tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved
    assert all(".layers.1." in name for name in saved)


def test_a_half_precision_base_gets_a_float32_adapter(base: Path, tmp_path: Path) -> None:
    train_adapter(base, "bfloat16", settings(max_step=2), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}


def test_layers_beyond_the_model_are_refused_with_the_allowed_range(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"\[2\] to \[5\].*allowed are indices 1 to {N_LAYERS}"):
        train_adapter(
            base, "float32", settings(layers_window_size=4), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p")
        )


def test_loss_that_is_no_number_ends_the_training_and_names_the_rows(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    tokenizer().save_pretrained(broken)
    with pytest.raises(ModelError, match=r"step 1: .*Rows of the step: s\d"):
        train_adapter(broken, "float32", settings(), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_can_be_trained(name: str, tmp_path: Path) -> None:
    pieces = tokenizer()
    config = ARCHITECTURES[name]
    config.vocab_size = len(pieces)
    policy = load_policy(make_base(tmp_path / name, config=config))
    pattern, modules = linear_modules(policy.model)
    assert (pattern, len(modules)) == (("h", 4) if "falcon" in name else ("layers", 7))
    trainer = AdapterTrainer(policy, settings(), load_training_examples(pieces, *tables(), 64))
    assert len(trainer.engine.state()["adapter"]) == 2 * 3 * len(modules)
    trainer.step()
    trainer.step()
    assert trainer.metrics[1]["unsafe_norm"] > 0
    assert not any(module._forward_hooks for module in trainer.engine.model.modules())


def test_groups_and_gradient_checkpointing_do_not_change_the_loss(base: Path, data: TrainingExamples) -> None:
    def first_steps(**changes: Any) -> list[dict[str, float]]:
        trainer = AdapterTrainer(load_policy(base), settings(batch_size=4, lora_dropout=0.0, **changes), data)
        for _ in range(3):
            trainer.step()
        return trainer.metrics

    whole = first_steps()
    for other in (first_steps(gradient_checkpointing=True), first_steps(micro_batch=4)):
        assert [row["total"] for row in other] == pytest.approx([row["total"] for row in whole], rel=1e-4)
    assert whole[2]["unsafe_norm"] > 0
    # With smaller groups, the cosine term compares fewer texts, as in the released code.
    assert first_steps(micro_batch=2)[0]["unsafe_cosine"] != pytest.approx(whole[0]["unsafe_cosine"], rel=1e-3)


def test_mixed_precision_rounds_the_matrix_products_alone(base: Path, data: TrainingExamples) -> None:
    def trained(**changes: Any) -> AdapterTrainer:
        trainer = AdapterTrainer(load_policy(base), settings(lora_dropout=0.0, **changes), data)
        for _ in range(3):
            trainer.step()
        return trainer

    exact, mixed = trained(), trained(mixed_precision="bfloat16")
    assert {weight.dtype for weight in mixed.engine.model.parameters()} == {torch.float32}
    for row, other in zip(mixed.metrics, exact.metrics, strict=True):
        assert row["total"] == pytest.approx(other["total"], rel=0.1, abs=0.02)
    assert mixed.metrics[2]["total"] != exact.metrics[2]["total"]


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base_can_be_trained_on(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="base_bits needs bitsandbytes")
    config = configuration(len(tokenizer()))
    # bitsandbytes quantises blocks of 64 values
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    base = make_base(tmp_path / "base", config=config)
    block = settings(base_bits=bits, max_step=3)
    train_adapter(base, "float32", block, tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    last = read_parquet(tmp_path / "adapter" / "metrics.parquet").to_pylist()[-1]
    assert last["unsafe_norm"] > 0
    assert {weight.dtype for weight in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {
        torch.float32
    }


@pytest.mark.parametrize(("method", "expected"), [("repbend", False), ("rmu", False), ("npo", True), ("dpo", True)])
def test_method_decides_whether_the_end_of_turn_token_is_trained(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, expected: bool
) -> None:
    end_of_turn: list[bool] = []

    def load(*args: Any) -> TrainingExamples:
        end_of_turn.append(args[-1].end_of_turn)
        return load_training_examples(*args)

    monkeypatch.setattr("rebend.repbend.train.load_training_examples", load)
    keys = ("examples", "paired_examples", "retain_chats", "batch_size", "max_length")
    common = {key: getattr(settings(), key) for key in keys}
    layers = {"rmu": {"target_layer": 2}, "repbend": {"target_layer_start_idx": 2, "layers_window_size": 2}}
    block = trained_adapter({**common, **layers.get(method, {}), "method": method, "max_step": 1})
    if method == "rmu":
        block = block.model_copy(update={"transform_layers": [1]})
    train_adapter(base, "float32", block, tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert end_of_turn == [expected]
