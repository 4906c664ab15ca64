"""The studies of the papers' tables: every printed number is matched with exactly one cell of the study."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
import yaml

from rebend.config.load import load_config
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.plan import Cell, Plan
from rebend.pipeline.stages import models, recontrol
from rebend.report.published import RecontrolPaper, RepbendPaper

ROOT = Path(__file__).parents[3]
RECONTROL = RecontrolPaper(ROOT / "resources" / "published")
REPBEND = RepbendPaper(ROOT / "resources" / "published")


@pytest.fixture(scope="module")
def plan() -> Plan:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    return load_plan({**raw, "study": "paper_repbend"}, ROOT / "config/studies")


@pytest.fixture(scope="module")
def cells(plan: Plan) -> list[Cell]:
    return plan.cells


def asr(plan: Plan, cell: Cell) -> float | None:
    described = cell.described(plan.config)
    return REPBEND.asr_of(REPBEND.model(described), REPBEND.method(described), REPBEND.benchmark(described))


def answered(plan: Plan, cell: Cell) -> float | None:
    described = cell.described(plan.config)
    names = REPBEND.model(described), REPBEND.method(described)
    return REPBEND.answered_of(*names, REPBEND.compliance_of(described))


MODELS = {"mistral_7b": "Mistral-7B-Instruct-v0.2", "llama3_8b": "Llama-3-8B-Instruct"}
METHODS = {
    "none": "Original",
    "repbend": "RepBend",
    "paper_circuit": "CB",
    "paper_rmu": "RMU",
    "paper_npo": "NPO",
    "paper_task": "TA",
}


@pytest.mark.parametrize("beginning", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_every_number_of_table_1_is_matched_with_one_cell(
    plan: Plan, cells: list[Cell], model: str, beginning: str
) -> None:
    selected = [cell for cell in cells if cell.base == model and cell.control == "none_512"]
    selected = [
        cell for cell in selected if cell.adapter.startswith(beginning) and not cell.adapter.endswith("_released")
    ]
    matched = Counter(asr(plan, cell) for cell in selected)
    matched.pop(None, None)
    with (ROOT / "resources" / "published" / "repbend_asr.csv").open(encoding="utf-8", newline="") as stream:
        printed = [row for row in csv.DictReader(stream) if "average" not in row["benchmark"]]
    expected = Counter(
        round(float(row["asr_percent"]) / 100, 6)
        for row in printed
        if (row["model"], row["method"], row["released_weights"]) == (MODELS[model], METHODS[beginning], "false")
    )
    assert matched == expected and sum(expected.values()) == 8


@pytest.mark.parametrize("model", ["mistral_7b", "llama3_8b", "gemma2_2b", "qwen2_5_14b"])
def test_over_refusal_is_measured_for_every_printed_model(plan: Plan, cells: list[Cell], model: str) -> None:
    for dataset in ("paper_xstest", "paper_wildjailbreak_benign"):
        selected = [cell for cell in cells if (cell.base, cell.adapter, cell.dataset) == (model, "none", dataset)]
        assert selected and all(answered(plan, cell) is not None for cell in selected)


@pytest.mark.parametrize(
    ("model", "base", "method"),
    [
        ("rr_mistral_7b", "mistral_7b", "CB"),
        ("rr_llama3_8b", "llama3_8b", "CB"),
        ("r2d2_zephyr_7b", "mistral_7b", "R2D2"),
    ],
)
def test_released_safe_models_are_matched_with_their_printed_numbers(
    plan: Plan, cells: list[Cell], model: str, base: str, method: str
) -> None:
    selected = [cell for cell in cells if cell.base == model and cell.control == "none_512"]
    attacks = {"direct", "gcg_harmbench", "prefilling_harmbench", "prefilling_harmbench_whole", "embedding"}
    assert {cell.attack for cell in selected} == attacks
    matched = {asr(plan, cell) for cell in selected} - {None}
    with (ROOT / "resources" / "published" / "repbend_asr.csv").open(encoding="utf-8", newline="") as stream:
        printed = [row for row in csv.DictReader(stream) if "average" not in row["benchmark"]]
    expected = {
        round(float(row["asr_percent"]) / 100, 6)
        for row in printed
        if (row["model"], row["method"], row["released_weights"]) == (MODELS[base], method, "true")
    }
    assert matched and matched <= expected


def test_training_data_is_not_reported(cells: list[Cell]) -> None:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    datasets = load_config({**raw, "study": "paper_repbend"}, ROOT / "config" / "studies")["datasets"]

    def source_of(name: str) -> str:
        source = getattr(datasets[name], "source", None)  # data sets made from others have none
        return source.model_dump_json() if source else ""

    trained = {source_of(name) for name in ("paper_wildguard", "paper_wildjailbreak_pairs", "paper_ultrachat")}
    assert not trained & {source_of(cell.dataset) for cell in cells}
    assert {(datasets[name].rows, datasets[name].seed) for name in datasets if source_of(name) in trained} == {
        (10000, 0)
    }


def test_every_row_of_recontrols_table_is_matched_with_one_cell() -> None:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    plan = load_plan({**raw, "study": "paper_recontrol"}, ROOT / "config/studies")
    with (ROOT / "resources" / "published" / "recontrol_main.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["win_rate_percent"] != "N/A"]
    forms = {"Base", "RE-Control", "RE-Control + Prompting"}  # methods that the released code has a form of
    for released in (False, True):
        matched: Counter[tuple[float | None, ...]] = Counter()
        for cell in plan.cells:
            if cell.control.endswith("_released") == released:
                printed = RECONTROL.row(cell.described(plan.config))
                matched[printed["reward"], printed["win_rate"]] += 1
        matched.pop((None, None), None)
        expected = Counter(
            (
                float(row["average_reward"]) if row["average_reward"] else None,
                round(float(row["win_rate_percent"]) / 100, 6),
            )
            for row in rows
            if not released or row["method"] in forms
        )
        assert {(reward, rate and round(rate, 6)): n for (reward, rate), n in matched.items()} == expected
        assert sum(expected.values()) == (12 if released else 15)


def test_recontrols_study_has_both_forms_of_every_stage_that_has_a_variant() -> None:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    plan = load_plan({**raw, "study": "paper_recontrol"}, ROOT / "config/studies")
    config = plan.config
    pairs = [(cell, config["controls"][cell.control]) for cell in plan.cells if "value" in cell.control]
    seen = {(c.base, c.dataset, b.method, b.variant, config["value_models"][b.value_model].variant) for c, b in pairs}
    cells = {(c.base, c.dataset) for c, _ in pairs}
    assert len(cells) == 8  # of each form four
    assert seen == {
        (model, dataset, method, variant, variant)
        for model, dataset in cells
        for method in ("value", "value_prompting")
        for variant in ["released_code" if model.endswith("_released") else "corrected"]
    }
    for (model, dataset), cell in {(c.base, c.dataset): c for c, _ in pairs}.items():
        variants = {
            config["models"][model].variant, config["datasets"][dataset].variant,
            config["rewards"][cell.grid.reward].variant,
        }  # fmt: skip
        assert variants == {"released_code" if model.endswith("_released") else "corrected"}
    for cell, block in pairs:
        released = block.variant == "released_code"
        value = config["value_models"][block.value_model]
        assert (block.dtype, value.dtype) == (("float16", "bfloat16") if released else (None, "float32"))
        assert (value.validation_share, value.epochs) == (0.0 if released else 0.1, 100)
        assert (block.decoding.from_checkpoint, bool(block.reward_stop), bool(block.decoding.stop)) == (
            (["do_sample", "top_p"], True, False) if released else ([], False, True)
        )
        kept = not released or cell.base.startswith("vicuna_7b")  # Vicuna's mask alone keeps the end state
        assert value.end_state == ("kept" if kept else "left_out")
        assert config["judges"][cell.grid.judge].orders == ("one" if released else "both")
    assert config["datasets"]["paper_hh_test"].rows == 8550
    assert {config["datasets"][f"paper_{name}_validation"].rows for name in ("hh", "shp")} == {1000}


def test_recontrols_settings_are_the_printed_ones() -> None:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    plan = load_plan({**raw, "study": "paper_recontrol"}, ROOT / "config/studies")
    with (ROOT / "resources" / "published" / "recontrol_hyperparameters.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        printed = {(row["dataset"], row["model"]): row for row in csv.DictReader(file)}
    models = {
        "vicuna_7b": "Vicuna-7B",
        "vicuna_7b_shp": "Vicuna-7B",
        "falcon_7b": "Falcon-7B",
        "llama3_8b_user": "Llama3-8B",
        "vicuna_7b_released": "Vicuna-7B",
        "falcon_7b_released": "Falcon-7B",
        "llama3_8b_released": "Llama3-8B",
    }
    seen = set()
    for cell in plan.cells:
        control = plan.config["controls"][cell.control]
        if control.method not in ("value", "value_prompting"):
            continue
        key = "HH-RLHF" if "hh" in cell.dataset else "SHP", models[cell.base]
        seen.add(key)
        row, value = printed[key], plan.config["value_models"][control.value_model]
        ours = [value.n_layers, value.hidden_size, value.lr, value.batch_size, value.epochs]
        names = ("layers", "hidden", "learning_rate", "batch_size", "epochs")
        assert ours == [float(row[f"value_{name}"]) for name in names]
        tokens = control.decoding.max_new_tokens
        expected = [float(row[name]) for name in ("step_size", "updates", "max_new_tokens")]
        assert [control.step_size, control.n_steps, tokens] == expected
        reward = plan.config["rewards"][value.reward]
        # The released code replaces other words in the texts of training responses than in those that it reports.
        assert (reward.hub.repo, value.reward.removesuffix("_labels")) == (row["reward_model"], cell.grid.reward)
    assert seen == set(printed)


class Wildcards(dict[str, str]):
    """Wildcards of a job, as Snakemake gives them."""

    __getattr__ = dict.__getitem__


def test_the_released_form_reaches_the_settings_of_its_stages() -> None:
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config = load_plan({**raw, "study": "paper_recontrol"}, ROOT / "config/studies").config
    expected = {
        "value_shp_llama3": ("bfloat16", []),
        "value_shp_llama3_released": ("float16", ["User:"]),
        "value_shp_vicuna_released": ("float16", ["Human:"]),
    }
    for control, (dtype, stop) in expected.items():
        wildcards = Wildcards(model="llama3_8b_user", control=control, reward="ultrarm_13b")
        decoded = recontrol.decoding_settings(config, wildcards)
        assert decoded["dtype"] == dtype and not {"dtype", "reward_stop"} & set(decoded["control"])
        assert models.response_reward_settings(config, wildcards)["stop"] == stop
