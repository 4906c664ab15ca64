"""Trainings over several seeds: the blocks of a seed, what names them, and messages about mistakes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.load import Config, load_config
from rebend.errors import ConfigError
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.plan import Plan

ROOT = Path(__file__).parents[3]
STUDIES = ROOT / "config/studies"
STUDY = {
    "title": "Seeds",
    "grids": [
        {"models": ["tiny"], "adapters": ["none", "repbend", "tiny_sum"], "controls": ["none", "value", "random"],
         "prompts": ["tiny_test"], "reward": "tiny_reward"},
        {"models": ["tiny"], "adapters": ["none", "repbend"], "controls": ["none"],
         "evaluation": ["tiny_safety_test"], "attacks": ["direct"], "safety_judges": ["truth"],
         "states": "tiny_answers_test"},
    ],
}  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    raw["adapters"]["repbend"]["seeds"] = [0, 7]
    raw["value_models"]["tiny_value"]["seeds"] = [0, 7]
    part = {"adapter": "repbend", "factor": 1.0}
    raw["adapters"]["tiny_sum"] = {"method": "task_arithmetic", "parts": [part], "label": "sum"}
    (tmp_path / "seeds.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return {**raw, "study": str(tmp_path / "seeds.yaml")}


@pytest.fixture
def config(raw: dict[str, Any]) -> Config:
    return load_config(raw, STUDIES)


def test_a_block_is_one_block_per_seed_with_its_own_label(config: Config) -> None:
    adapters = config["adapters"]
    assert "repbend" not in adapters and [adapters[f"repbend_seed_{n}"].seed for n in (0, 7)] == [0, 7]
    assert {adapters[f"repbend_seed_{n}"].label for n in (0, 7)} == {"repbend"}
    assert adapters["tiny_sum_seed_7"].label == "sum"
    same = [adapters[f"repbend_seed_{n}"].model_dump(exclude={"seed"}) for n in (0, 7)]
    assert same[0] == same[1]
    assert list(adapters)[:2] == ["repbend_seed_0", "repbend_seed_7"]  # in the place of the block
    assert "repbend_published" not in adapters and adapters["repbend_published_seed_7"].variant == "released_code"


def test_blocks_that_name_a_training_have_its_seeds(config: Config) -> None:
    assert config["adapters"]["tiny_sum_seed_7"].parts[0].adapter == "repbend_seed_7"
    controls = config["controls"]
    assert "value" not in controls and "random" not in controls
    assert controls["random_seed_7"].value_model == "tiny_value_seed_7"
    assert controls["random_seed_7"].strength_of == "value_seed_7"
    assert controls["value_seed_0"].choice.dataset == "tiny_validation"
    assert config.seeds["controls"]["random_seed_7"] == 7 and "none" not in config.seeds["controls"]


def test_like_copies_the_seeds_and_sweeps_multiply_them(raw: dict[str, Any]) -> None:
    raw["adapters"]["again"] = {"like": "repbend", "beta": {"sweep": [0.25, 0.5]}}
    raw["adapters"]["alone"] = {"like": "repbend", "seeds": [3]}
    raw["adapters"]["once"] = {"like": "repbend", "seeds": None}
    config = load_config(raw, STUDIES)
    names = [name for name in config["adapters"] if name.startswith("again")]
    assert names == [f"again_beta_{beta}_seed_{n}" for beta in ("0p25", "0p5") for n in (0, 7)]
    assert config["adapters"]["again_beta_0p5_seed_7"].beta == 0.5
    assert config["adapters"]["again_beta_0p5_seed_7"].label == "again_beta_0p5"
    assert config["adapters"]["alone_seed_3"].seed == 3 and config["adapters"]["once"].seed == 0
    study = yaml.safe_load(Path(raw["study"]).read_text())
    study["grids"][1]["adapters"] = ["again"]
    Path(raw["study"]).write_text(yaml.safe_dump(study))
    assert load_config(raw, STUDIES).study.grids[1].adapters == names


def test_an_adapter_and_a_control_meet_with_the_same_seed_only(raw: dict[str, Any]) -> None:
    plan: Plan = load_plan(raw, STUDIES)
    met = {(cell.adapter, cell.control, cell.seed) for cell in plan.cells if cell.role == "quality"}
    expected = {("none", "none", None)}
    for n in (0, 7):
        expected |= {("none", f"{control}_seed_{n}", n) for control in ("value", "random")}
        for adapter in ("repbend", "tiny_sum"):
            expected |= {
                (f"{adapter}_seed_{n}", control, n) for control in ("none", f"value_seed_{n}", f"random_seed_{n}")
            }
    assert met == expected
    described = [cell.described(plan.config) for cell in plan.cells if cell.adapter == "repbend_seed_7"]
    assert {(cell["adapter"], cell["seed"]) for cell in described} == {("repbend", "7")}
    assert {cell.described(plan.config)["seed"] for cell in plan.cells if cell.seed is None} == {""}
    assert plan.projections == [("tiny", "repbend_seed_0", "tiny_answers_test")]
    assert {entry["adapter"] for entry in plan.summary("x")["adapters"]} == {"repbend, seed 0", "repbend, seed 7"}


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("adapters.repbend.seeds", [0, 0], "adapters.repbend.seeds: got [0, 0]. A list of different whole numbers"),
        ("adapters.repbend.seeds", [], "adapters.repbend.seeds: got []"),
        ("adapters.repbend.seeds", 3, "adapters.repbend.seeds: got 3"),
        ("adapters.repbend.seeds", [True], "adapters.repbend.seeds: got [True]"),
        ("adapters.repbend.seeds", [-1], "adapters.repbend.seeds: got [-1]"),
        ("controls.prompting.seeds", [0], "controls.prompting.seeds: only blocks of adapters, value_models"),
        ("adapters.repbend_llama3_released.seeds", [0], "repbend_llama3_released.seeds: only blocks"),
        ("datasets.tiny_test.seeds", [0], "datasets.tiny_test.seeds: only blocks"),
        ("adapters.tiny_sft.seeds", [0, 1], "tiny_sum.parts.1.adapter: 'tiny_sft' has the seeds [0, 1], but this"),
        ("adapters.repbend_seed_7", {"like": "tiny_sft"}, "adapters.repbend_seed_7: this name is that of a seed"),
    ],
)
def test_message_names_the_block_and_what_is_allowed(
    raw: dict[str, Any], place: str, value: object, expected: str
) -> None:
    changed = copy.deepcopy(raw)
    changed["adapters"]["tiny_sum"]["parts"].append({"adapter": "tiny_sft", "factor": 1.0})
    *parents, last = place.split(".")
    mapping: Any = changed
    for part in parents:
        mapping = mapping[part]
    mapping[last] = value
    with pytest.raises(ConfigError) as caught:
        load_plan(changed, STUDIES)
    assert expected in str(caught.value)


def test_two_blocks_with_one_label_are_still_refused(raw: dict[str, Any]) -> None:
    raw["adapters"]["tiny_sum"]["label"] = "repbend"
    with pytest.raises(ConfigError, match="adapters repbend, tiny_sum are all called 'repbend'"):
        load_plan(raw, STUDIES)
