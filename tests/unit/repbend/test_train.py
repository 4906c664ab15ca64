"""Training an adapter: rows, batches, resuming, and what is written."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rebend.errors import ConfigError, DataError, ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_parquet
from rebend.io.schemas import CHAT
from rebend.models.loading import fingerprint, load_policy
from rebend.models.lora import linear_modules
from rebend.repbend.examples import TrainingExamples, load_training_examples
from rebend.repbend.forward import MAX_PADDING, Probe, keeps_packed_texts_apart, make_batches, run_pass
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.objective import Moment
from rebend.repbend.train import AdapterTrainer, train_adapter
from tests.helpers.training_parts import (
    N_LAYERS,
    configuration,
    make_base,
    pairs,
    retain,
    samples,
    settings,
    tables,
    tokenizer,
    user,
)

CPU = torch.device("cpu")


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
    """Progress that does something to its own process when so many steps are done."""

    def __init__(self, directory: Path, step: int, act: Callable[[], None]) -> None:
        super().__init__(directory, every_seconds=0.0)
        self.left = step
        self.act = act

    def after_step(self, make_state: Callable[[], dict[str, Any]], **ranks: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()
        super().after_step(make_state, **ranks)


def killed() -> None:
    """Die between a step and its checkpoint, as by SIGKILL."""
    raise KeyboardInterrupt


def asked_to_stop() -> None:
    """Get SIGTERM, as from Slurm."""
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("act", [killed, asked_to_stop])
@pytest.mark.parametrize("step", [1, 4])
def test_a_training_that_was_stopped_ends_in_the_same_bytes(
    base: Path, adapter: Path, tmp_path: Path, step: int, act: Callable[[], None]
) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_adapter(base, "float32", settings(), tables(), tmp_path / "adapter", StoppedAt(tmp_path / "p", step, act))
    assert not (tmp_path / "adapter").exists()
    assert Checkpoints(tmp_path / "p").path.exists() == (act is asked_to_stop or step > 1)
    torch.rand(3)  # the generator's state at the second start must not matter
    train_adapter(base, "float32", settings(), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert sorted(file.name for file in adapter.iterdir()) == sorted(
        file.name for file in (tmp_path / "adapter").iterdir()
    )
    for file in adapter.iterdir():
        assert file.read_bytes() == (tmp_path / "adapter" / file.name).read_bytes(), file.name


def test_training_leaves_the_callers_random_numbers_alone(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train_adapter(base, "float32", settings(max_step=1), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert torch.equal(torch.rand(2), expected)


def test_metrics_have_a_row_per_step_and_begin_with_nothing_moved(adapter: Path) -> None:
    rows = read_parquet(adapter / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["push"] > 0.1
    # Dropout acts on the adapter alone, whose output is zero at first: nothing can have moved.
    assert (rows[0]["keep"], rows[0]["push"], rows[0]["hold"]) == (0.0, 0.0, 0.0)
    for row in rows:
        total = 0.5 * row["keep"] - 0.5 * row["push"] + 0.1 * row["gather"] + 0.3 * row["hold"]
        assert row["total"] == pytest.approx(total, rel=1e-5)
        assert row["grad_norm"] > 0
        assert row["lr"] == 1e-3


def test_unsafe_states_move_more_than_safe_ones(base: Path, tmp_path: Path) -> None:
    longer = settings(max_step=25, batch_size=4, epsilon=1.0, alpha=1.0)
    train_adapter(base, "float32", longer, tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    last = read_parquet(tmp_path / "adapter" / "metrics.parquet").to_pylist()[-1]
    assert last["push"] > 2 * last["keep"]


def test_the_adapter_is_written_without_network_and_peft_loads_it(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("asked for the network")

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


def test_the_adapter_says_which_base_it_belongs_to_and_no_path(base: Path, adapter: Path) -> None:
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


def test_a_loss_that_is_no_number_stops_and_names_the_rows(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    tokenizer().save_pretrained(broken)
    with pytest.raises(ModelError, match=r"step 1: .*Rows of the step: s\d"):
        train_adapter(broken, "float32", settings(), tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("label", ["safe", "unsafe"])
def test_data_with_one_class_only_is_refused(label: str) -> None:
    one_class = samples().filter(pc.field("label") == label)
    with pytest.raises(DataError, match=r"bending needs (un)?safe samples"):
        load_training_examples(tokenizer(), one_class, pairs(), retain(), 64)


def test_missing_pairs_or_chats_are_refused() -> None:
    with pytest.raises(DataError, match="needs pairs"):
        load_training_examples(tokenizer(), samples(), samples(), retain(), 64)
    with pytest.raises(DataError, match="needs retain chats"):
        load_training_examples(tokenizer(), samples(), pairs(), CHAT.empty_table(), 64)


def test_half_a_pair_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"pair 'p2' has the labels \['unsafe'\]"):
        load_training_examples(tokenizer(), samples(), pairs().slice(0, 5), retain(), 64)


def test_rows_hold_the_prompt_through_the_template_and_the_bare_answer(data: TrainingExamples) -> None:
    pieces = tokenizer()
    entry, row = samples().to_pylist()[0], data.safe[0]
    prompt = pieces.apply_chat_template(entry["messages"], tokenize=False, add_generation_prompt=True)
    assert pieces.decode(row.tokens[: row.n_prompt]) == prompt
    assert pieces.decode(row.tokens[row.n_prompt :]) == entry["response"]
    assert pieces.decode(data.retain[0].tokens) == pieces.apply_chat_template(
        retain().to_pylist()[0]["messages"], tokenize=False
    )


def test_too_long_prompts_and_empty_answers_are_left_out_and_counted() -> None:
    extra = [
        {"row_id": "x", "messages": user("why " * 99), "response": "so", "label": "safe", "pair": None},
        {"row_id": "y", "messages": user("why"), "response": "", "label": "safe", "pair": None},
        {"row_id": "z", "messages": user("why"), "response": "because " * 99, "label": "safe", "pair": None},
    ]
    table = pa.concat_tables([samples(), pa.Table.from_pylist(extra, samples().schema)])
    data = load_training_examples(tokenizer(), table, pairs(), retain(), 64)
    assert data.left_out == {"prompt too long": 1, "empty answer": 1}
    long = data.safe[-1]
    assert (long.row_id, len(long.tokens) - long.n_prompt) == ("z", 64)


def test_one_table_may_hold_samples_and_pairs() -> None:
    both = pa.concat_tables([samples(), pairs()])
    data = load_training_examples(tokenizer(), both, both, retain(), 64)
    assert [row.row_id for row in (*data.safe, *data.unsafe)] == ["s0", "s2", "s4", "s1", "s3", "s5"]
    assert [(safe.row_id, unsafe.row_id) for safe, unsafe in data.pairs] == [
        (f"p{n}safe", f"p{n}unsafe") for n in range(3)
    ]


def test_a_table_of_pairs_alone_gives_samples_too() -> None:
    data = load_training_examples(tokenizer(), pairs(), pairs(), retain(), 64)
    assert [row.row_id for row in data.safe] == ["p0safe", "p1safe", "p2safe"]
    assert len(data.unsafe) == len(data.pairs) == 3


def test_rows_of_a_step_depend_on_seed_and_number_alone(data: TrainingExamples) -> None:
    later = data.step(7, 2, 0).ids()
    data.step(0, 2, 0)
    assert data.step(7, 2, 0).ids() == later
    assert any(data.step(step, 2, 1).ids() != data.step(step, 2, 0).ids() for step in (0, 1))


def test_every_row_is_seen_once_in_an_epoch(data: TrainingExamples) -> None:
    seen = [row.row_id for step in range(5) for row in data.step(step, 2, 0).retain]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [f"r{n}" for n in range(5)]


def test_groups_of_a_step_are_its_items_in_order(data: TrainingExamples) -> None:
    whole = data.step(3, 4, 0)
    assert [row_id for group in whole.groups(2) for row_id in group.ids()] != whole.ids()
    assert [row.row_id for group in whole.groups(2) for row in group.retain] == [row.row_id for row in whole.retain]
    assert [data.step(item, 1, 0).ids() for item in range(12, 16)] == [group.ids() for group in whole.groups(1)]


def looked_at(data: TrainingExamples, **changes: Any) -> dict[str, list[Probe]]:
    """The probes of one step by the first name of their places."""
    objective = RepBend(settings(**changes), data, N_LAYERS)
    found: dict[str, list[Probe]] = {}
    for probe in objective.probes(data.step(0, 2, 0), Moment(0, 6, 2)):
        found.setdefault(next(iter(probe.places)), []).append(probe)
    return found


def test_safe_and_unsafe_answers_of_a_pair_come_in_the_same_group(data: TrainingExamples) -> None:
    found, pairs_there = looked_at(data), data.step(0, 2, 0).pairs
    assert [probe.tokens for probe in found["safe"][2:]] == [safe.tokens for safe, _ in pairs_there]
    assert [probe.tokens for probe in found["unsafe"][2:]] == [unsafe.tokens for _, unsafe in pairs_there]


@pytest.mark.parametrize("mode", ["prompt_last", "request_last", "prompt_all", "request_all"])
def test_modes_that_look_at_prompts_never_keep_and_push_the_same_prompt(data: TrainingExamples, mode: str) -> None:
    found, rows = looked_at(data, loss_mode=mode), data.step(0, 2, 0)
    assert [probe.tokens for probe in found["safe"]] == [row.tokens[: row.n_prompt] for row in rows.safe]
    assert len(found["unsafe"]) == 4
    (first, *_) = found["safe"][0].places["safe"]
    assert first == (rows.safe[0].n_prompt - 1 if "last" in mode else 0)


def test_the_first_answer_tokens_shrink_to_the_shortest_paired_answer_for_good(data: TrainingExamples) -> None:
    objective = RepBend(settings(loss_mode="response_R"), data, N_LAYERS)
    shortest = [min(20, *(row.n_answer for row in data.step(item, 1, 0).pairs[0])) for item in range(6)]
    expected = [min(shortest[:items]) for items in range(1, 7)]
    assert [objective.first_tokens(Moment(0, 6, items)) for items in range(1, 7)] == expected
    assert RepBend(settings(loss_mode="response_R"), data, N_LAYERS).first_tokens(Moment(0, 6, 6)) == expected[-1]
    corrected = settings(loss_mode="response_R", variant="corrected", lora_dropout=0.0)
    assert RepBend(corrected, data, N_LAYERS).first_tokens(Moment(0, 6, 6)) == 20


def test_batches_hold_every_place_once_and_little_padding(data: TrainingExamples) -> None:
    probes = [probe for part in looked_at(data).values() for probe in part]
    parts = make_batches(probes, CPU)
    real = sum(len(probe.tokens) for probe in probes)
    assert real >= (1 - MAX_PADDING) * sum(part.tokens.numel() for part in parts)
    for name in ("safe", "unsafe", "ends", "retain"):
        there = [
            (owner, token)
            for part in parts
            for owner, token in zip(
                part.owners[name].tolist(), part.tokens.flatten()[part.places[name]].tolist(), strict=True
            )
        ]
        wanted = [(n, probe.tokens[place]) for n, probe in enumerate(probes) for place in probe.places.get(name, [])]
        assert sorted(there) == sorted(wanted)


ARCHITECTURES = {
    "llama": configuration(300),
    "mistral": MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6,
    ),
    "qwen2": Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "qwen3": Qwen3Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    ),
    "gemma2": Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5,
    ),
    "falcon": FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=False),
    "falcon-alibi": FalconConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=True,
        new_decoder_architecture=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batches_show_what_each_text_alone_shows(name: str, packed: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    texts = [torch.randint(3, 300, (length,)) for length in (9, 5, 14)]
    probes = [Probe(text.tolist(), {"all": range(len(text)), "end": [len(text) - 1]}) for text in texts]
    with torch.no_grad():
        seen = run_pass(model, make_batches(probes, CPU, packed=packed), {"all": [1, 2, 3], "end": [3]})
        alone = [model(input_ids=text[None], output_hidden_states=True).hidden_states for text in texts]
    same = all(
        torch.allclose(seen.ordered("all")[number], torch.cat([states[index][0] for states in alone]), atol=1e-4)
        for number, index in enumerate((1, 2, 3))
    )
    # Falcon's code does not keep packed texts apart: there it is found out, and nothing is packed.
    assert same == (not packed or "falcon" not in name)
    if packed:
        assert keeps_packed_texts_apart(model) == same
    else:
        assert torch.allclose(seen.ordered("end")[0], torch.cat([states[3][0, -1:] for states in alone]), atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_adapters(name: str, tmp_path: Path) -> None:
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
    assert trainer.metrics[1]["push"] > 0
    assert not any(module._forward_hooks for module in trainer.engine.model.modules())


def test_groups_and_recomputed_activations_change_memory_and_not_the_loss(base: Path, data: TrainingExamples) -> None:
    def first_steps(**changes: Any) -> list[dict[str, float]]:
        trainer = AdapterTrainer(load_policy(base), settings(batch_size=4, lora_dropout=0.0, **changes), data)
        for _ in range(3):
            trainer.step()
        return trainer.metrics

    whole = first_steps()
    for other in (first_steps(gradient_checkpointing=True), first_steps(micro_batch=4)):
        assert [row["total"] for row in other] == pytest.approx([row["total"] for row in whole], rel=1e-4)
    assert whole[2]["push"] > 0
    # Smaller groups gather among fewer rows: a setting, as in the released code.
    assert first_steps(micro_batch=2)[0]["gather"] != pytest.approx(whole[0]["gather"], rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_adapters(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="base_bits needs bitsandbytes")
    config = configuration(len(tokenizer()))
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})  # its blocks are 64 wide
    base = make_base(tmp_path / "base", config=config)
    block = settings(base_bits=bits, max_step=3)
    train_adapter(base, "float32", block, tables(), tmp_path / "adapter", Checkpoints(tmp_path / "p"))
    last = read_parquet(tmp_path / "adapter" / "metrics.parquet").to_pylist()[-1]
    assert last["push"] > 0
    assert {weight.dtype for weight in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {
        torch.float32
    }
