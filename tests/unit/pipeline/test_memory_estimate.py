"""The memory that a job asks for: near the measured peaks, larger with every key that raises it, 4,000 if unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rebend.config.base import Resources
from rebend.config.load import load_config
from rebend.data.assets import package_asset
from rebend.io.files import write_json
from rebend.pipeline.cost.memory import UNKNOWN_MB, Memory
from rebend.pipeline.cost.shapes import Shape
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages.models import checkpoint_resources
from rebend.pipeline.stages.rules import resources

ROOT = Path(__file__).parents[3]
SMOL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
}
WIDE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "vocab_size": 8000,
}
PARAMETERS = {"smol": 134_515_008, "wide": 87_832_320, "r": 134_515_008, "truth": 134_515_008}
HERE = 300  # MiB of the Snakemake that the estimate has in it and the measured process has not
Make = Callable[..., Memory]


class Names(dict[str, str]):
    """Wildcards: by key and by attribute."""

    def __getattr__(self, key: str) -> str:
        return self[key]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return estimates with the prepared models `smol` and `wide`, and `changes` of the catalogue."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources/templates").symlink_to(ROOT / "resources/templates")
    for name, config in (("smol", SMOL), ("wide", WIDE)):
        write_json(f"{paths.model(name)}/config.json", config)

    def estimates(**changes: dict[str, Any]) -> Memory:
        models = {name: {"local": f"/nowhere/{name}"} for name in ("smol", "wide")}
        catalogue = {**raw, "models": {**raw["models"], **models, **changes.pop("models", {})}}
        for section, blocks in changes.items():
            catalogue[section] = {**catalogue[section], **blocks}
        memory = Memory(Plan(load_config({**catalogue, "study": "tiny"}, ROOT / "config/studies")))
        counted = memory.facts.parameters
        memory.facts.parameters = lambda place: PARAMETERS.get(place.split("/")[1]) or counted(place)
        return memory

    return estimates


def megabytes(peak: int) -> float:
    """Return the MB that a job with this peak of its process, MiB, needs."""
    return (peak + HERE) * 2**20 / 1e6


def adapter(**keys: Any) -> dict[str, Any]:
    data = {"examples": "tiny_safety", "paired_examples": "tiny_safety", "retain_chats": "tiny_retain"}
    return {"method": "repbend", "batch_size": 3, "max_length": 96, **data, **keys}


def training(make: Make, model: str, **keys: Any) -> int:
    block = adapter(target_layer_start_idx=2, layers_window_size=2, **keys)
    return make(adapters={"a": block}).megabytes("train_adapter", Names(base=model, adapter="a"))


# Measured on two cores in float32, `VmHWM` of the process in MiB; every text had the largest length.
MEASURED_TRAININGS = [
    ("smol", {}, 9725),
    ("smol", {"batch_size": 1, "max_length": 48}, 2529),
    ("wide", {"batch_size": 2, "max_length": 64}, 2513),
    ("wide", {"batch_size": 2, "max_length": 64, "lora_dropout": 0.0}, 2211),
    ("wide", {"batch_size": 2, "max_length": 64, "micro_batch": 1}, 1755),
    ("wide", {"batch_size": 2, "max_length": 64, "gradient_checkpointing": True}, 1881),
]


@pytest.mark.parametrize(("model", "keys", "peak"), MEASURED_TRAININGS)
def test_training_asks_for_its_measured_peak_and_little_more(
    make: Make, model: str, keys: dict[str, Any], peak: int
) -> None:
    assert 1 <= training(make, model, **keys) / megabytes(peak) <= 1.3


@pytest.mark.parametrize(
    ("model", "decoding", "prompt", "peak"),
    [
        ("smol", {"batch_size": 16, "max_new_tokens": 12}, 208, 1467),
        ("wide", {"batch_size": 32, "max_new_tokens": 24}, 103, 1305),
    ],
)
def test_decoding_needs_its_measured_peak_for_prompts_of_that_length(
    make: Make, monkeypatch: pytest.MonkeyPatch, model: str, decoding: dict[str, Any], prompt: int, peak: int
) -> None:
    monkeypatch.setattr("rebend.pipeline.cost.memory._PROMPT", prompt)
    memory = make(controls={"c": {"method": "none", "decoding": decoding}})
    asked = memory.megabytes("decode", Names(model=model, control="c"))
    assert 1 <= asked / megabytes(peak) <= 1.3


# The largest peaks of the stages of the tiny study, from their records: MiB.
RECORDED = [
    ("train_adapter", {"base": "tiny", "adapter": "repbend"}, 707),
    ("merge_adapter", {"base": "tiny", "adapter": "repbend"}, 532),
    ("project_hidden_states", {"base": "tiny", "adapter": "repbend", "dataset": "tiny_safety"}, 588),
    ("extract_activations", {"model": "tiny", "activations": "tiny_rollouts"}, 644),
    ("label_rewards", {"model": "tiny", "activations": "tiny_rollouts", "reward": "tiny_reward"}, 590),
    ("train_value_model", {"model": "tiny", "value_model": "tiny_value"}, 564),
    ("choose_strength", {"model": "tiny", "control": "value"}, 957),
    ("decode", {"model": "tiny", "control": "best_of_8"}, 711),
    ("attack", {"model": "tiny", "control": "none", "attack": "prefilling"}, 712),
    ("score_reward", {"reward": "tiny_reward"}, 636),
    ("embed_prompts", {"encoder": "minilm"}, 718),
    ("score_coherence", {"encoder": "minilm"}, 788),
    ("judge_safety", {"safety_judge": "truth"}, 477),
]


@pytest.mark.parametrize(("rule", "names", "peak"), RECORDED)
def test_stages_of_the_tiny_study_ask_for_their_recorded_peak_and_at_most_twice_it(
    make: Make, rule: str, names: dict[str, str], peak: int
) -> None:
    assert 1 <= make().megabytes(rule, Names(names)) / megabytes(peak) <= 2


@pytest.mark.parametrize(
    ("parameters", "peak"), [(134_515_008, 1217), (340_790_784, 2088)], ids=["SmolLM2-135M Q4_1", "12 blocks, Q8_0"]
)
def test_conversion_of_a_gguf_file_asks_for_its_measured_peak_and_little_more(
    make: Make, parameters: int, peak: int
) -> None:
    memory = make(models={"file": {"gguf": "/nowhere/any.gguf", "dtype": "bfloat16"}})
    memory.facts.parameters = lambda place: parameters
    assert 1 <= memory.megabytes("prepare_model", Names(place="models/file")) / megabytes(peak) <= 1.2


def test_preparing_a_gguf_file_of_7b_needs_its_float32_weights_and_other_weights_are_linked(make: Make) -> None:
    named = {"gguf": "/nowhere/some-7B.Q4_K_M.gguf"}
    far = {"hub": {"repo": "someone/model-70B", "revision": "main"}, "resources": {"gpu": 4, "mem_mb": 96000}}
    memory = make(models={"named": named, "unknown": {"gguf": "/nowhere/other.gguf"}, "far": far})
    assert 28_000 < memory.megabytes("prepare_model", Names(place="models/named")) < 1.4 * 28_000
    assert memory.megabytes("prepare_model", Names(place="models/unknown")) == UNKNOWN_MB
    assert memory.megabytes("prepare_model", Names(place="models/far")) < 8000
    assert memory.megabytes("prepare_model", Names(place="encoders/simcse")) < 8000


@pytest.mark.parametrize(
    ("name", "bits"),
    [("m.Q4_K_M.gguf", 4), ("m-f16.gguf", 16), ("m.BF16.gguf", 16), ("Qwen.IQ2_XS.gguf", 2), ("m.gguf", 4)],
)
def test_parameters_of_a_gguf_file_without_a_size_in_its_name_come_from_its_bytes(
    make: Make, tmp_path: Path, name: str, bits: int
) -> None:
    (tmp_path / name).write_bytes(bytes(6000))
    package = {"name": "some-package", "version": "1.0", "file": "*.gguf"}
    models = {"local": {"gguf": str(tmp_path / name)}, "fetched": {"package": package}}
    facts = make(models=models).facts
    assert facts.parameters("models/local") == 6000 * 8 / bits
    assert facts.parameters("models/fetched") == 7e9 and "results/models/fetched" in facts.guesses
    asset = package_asset(facts.plan.config["models"]["fetched"].package)
    files = {f"folder/{name}": {"size": 6000, "sha256": ""}, "LICENSE": {"size": 900, "sha256": ""}}
    write_json(paths.ASSET_LOCK, {asset.name: {"size": 6900, "files": files}})
    facts = make(models=models).facts
    assert facts.parameters("models/fetched") == 6000 * 8 / bits and not facts.guesses


def test_preparing_a_model_takes_no_gpu_and_its_given_memory_if_the_weights_are_read(make: Make) -> None:
    given = {"resources": {"gpu": 4, "mem_mb": 96000}}
    hub = {"hub": {"repo": "someone/model-7B", "revision": "main"}, **given}
    config = make(models={"file": {"gguf": "/nowhere/any-7B.gguf", **given}, "hub": hub}).config
    read, linked = (checkpoint_resources(config, Names(place=f"models/{name}")) for name in ("file", "hub"))
    assert (read.gpu, read.mem_mb) == (0, 96000)
    assert (linked.gpu, linked.mem_mb) == (0, None)


@pytest.mark.parametrize(
    "more", [{"batch_size": 6}, {"max_length": 192}, {"lora_r": 128}, {"micro_batch": 1}, {"gradient_checkpointing": 1}]
)
def test_keys_of_a_training_change_what_it_asks_for(make: Make, more: dict[str, Any]) -> None:
    more = {key: bool(value) if key == "gradient_checkpointing" else value for key, value in more.items()}
    lowers = set(more) <= {"micro_batch", "gradient_checkpointing"}
    assert (training(make, "smol", **more) < training(make, "smol")) == lowers
    assert training(make, "smol", **more) != training(make, "smol")


def test_whole_text_is_no_longer_than_the_context(make: Make) -> None:
    assert training(make, "smol", max_length=1024) == training(make, "smol", max_length=4096)


def test_training_of_a_reward_model_keeps_both_texts_of_a_pair_and_all_weights(make: Make) -> None:
    """The tiny study's had a peak of 797 MiB; SmolLM2's was killed at 21.5 GB, at the longest dialogues."""
    tiny = make().megabytes("train_reward_model", Names(reward="tiny_reward"))
    assert 1 <= tiny / megabytes(797) <= 2
    block = {"model": "smol", "dataset": "tiny_preferences", "batch_size": 8}
    memory = make(rewards={"r": {"tiny": block}, "half": {"tiny": {**block, "batch_size": 4}}})
    whole, half = (memory.megabytes("train_reward_model", Names(reward=name)) for name in ("r", "half"))
    assert 21_500 < whole < 2 * 21_500
    fixed = 2 * half - whole  # Python, weights, gradient and moments, which no batch changes
    assert fixed > (1 + 7) * 4 * 134_515_008 / 1e6


def test_sampled_pairs_need_model_and_judge_and_a_likelihood_the_model(make: Make) -> None:
    memory = make(controls={"c": {"method": "none", "decoding": {"batch_size": 8}}})
    block = SimpleNamespace(model="smol", judge="truth", decoding=memory.config["controls"]["c"].decoding)
    sections = {name: memory.config[name] for name in ("models", "controls", "rewards", "safety_judges")}
    memory.config = {**sections, "datasets": {"pairs": block}}
    decoded = memory.megabytes("decode", Names(model="smol", control="c"))
    assert memory.megabytes("sample_pairs", Names(dataset="pairs")) == decoded
    assert memory.megabytes("sample_chats", Names(dataset="pairs")) == decoded
    judge = SimpleNamespace(dtype="float32", batch_size=1, max_length=64)
    memory.config["safety_judges"] = {"truth": judge}
    write_json(f"{paths.judge_model('truth')}/config.json", SMOL)
    more = memory.megabytes("sample_pairs", Names(dataset="pairs")) - decoded
    assert more == pytest.approx(4 * 134_515_008 / 1e6, abs=100)
    chats = memory.megabytes("score_chats", Names(model="smol", dataset="chats"))
    answers = memory.megabytes("score_perplexity", Names(answers="responses/smol+a/d/none"))
    assert chats == answers
    assert 900 + 4 * 134_515_008 / 1e6 < chats < 2500


def test_dtype_reward_model_and_gpus_count(make: Make) -> None:
    names = Names(model="smol", control="c")
    best = {"method": "best_of_n", "n": 4, "reward": "r", "decoding": {"temperature": 1.0, "batch_size": 8}}
    rewards = {"r": {"local": "/nowhere/r", "batch_size": 4, "max_length": 64}}
    write_json(f"{paths.reward_model('r')}/config.json", SMOL)
    with_reward = make(controls={"c": best}, rewards=rewards).megabytes("decode", names)
    plain = {"method": "none", "decoding": best["decoding"]}
    alone = make(controls={"c": plain}).megabytes("decode", names)
    assert with_reward - alone == pytest.approx(4 * 134_515_008 / 1e6, abs=100)
    half = make(controls={"c": {**plain, "dtype": "bfloat16"}}).megabytes("decode", names)
    assert alone - half > 2 * 134_515_008 / 1e6
    large = make(controls={"c": {**plain, "decoding": {"batch_size": 512}}}).megabytes("decode", names)
    assert make(controls={"c": plain}).megabytes("decode", names, gpus=1) < large
    one, two = (make(controls={"c": plain}).megabytes("decode", names, gpus=gpus) for gpus in (1, 2))
    assert two - one == pytest.approx((3e9 + 4 * 134_515_008) / 1e6, abs=100)


def test_model_of_unknown_size_and_other_rules_ask_for_4000_mb(make: Make) -> None:
    memory = make(models={"far": {"hub": {"repo": "someone/unknown", "revision": "main"}}})
    assert memory.shape("models/far") is None
    assert memory.megabytes("decode", Names(model="far", control="none")) == UNKNOWN_MB == 4000
    assert memory.megabytes("make_tables", Names()) == UNKNOWN_MB


def test_shapes_come_from_files_blocks_and_names(make: Make) -> None:
    memory = make(models={"far": {"hub": {"repo": "someone/model-7B", "revision": "main"}}})
    assert memory.shape("models/smol") == Shape(134_515_008, 30, 576, 1536, 192, 49152, 2048)
    merged = memory.shape("models/smol+repbend")  # not merged yet, and no size known: counted from the configuration
    assert merged[1:] == memory.shape("models/smol")[1:]
    assert merged.parameters == pytest.approx(134_515_008, rel=1e-3)
    tiny = memory.config["models"]["tiny"].tiny
    assert memory.shape("models/tiny")[1:3] == (tiny.n_layers, tiny.hidden_size)
    assert memory.shape("reward_models/tiny_reward")[1:] == memory.shape("models/tiny")[1:]
    far = memory.shape("models/far")
    assert far[:2] == (7e9, 32) and 12 * far.blocks * far.width**2 == pytest.approx(7e9, rel=0.01)


def test_given_memory_has_priority_and_each_attempt_adds_it() -> None:
    def estimate(rule: str, names: Any, gpus: int) -> int:
        return 700 + gpus + len(rule)

    given = resources(lambda names: Resources(gpu=2, mem_mb=1000), estimate)
    assert given["mem_mb"](None, attempt=2, rulename="decode") == 2000
    absent = resources(lambda names: Resources(gpu=2), estimate)
    assert [absent["mem_mb"](None, attempt=n, rulename="decode") for n in (1, 2)] == [708, 1416]
    assert resources(lambda names: Resources())["mem_mb"](None, attempt=1) == 4000


def test_every_rule_with_resources_of_a_block_has_an_estimate(make: Make) -> None:
    import re

    text = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "workflow/rules").glob("*.smk"))
    rules = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", text, re.M | re.S))
    assert {name for name, body in rules.items() if "**resources(" in body} <= set(make()._needs)
