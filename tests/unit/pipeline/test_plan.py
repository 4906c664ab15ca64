"""The plan of a study: its cells, the inputs and settings of its stages, and its summary."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rebend.config.base import Resources, settings
from rebend.errors import ConfigError
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages import evaluation, recontrol
from rebend.pipeline.stages.rules import one_of, resources

ROOT = Path(__file__).parents[3]


class Wildcards(dict[str, str]):
    """Values of wildcards by key and by attribute, as in Snakemake."""

    def __getattr__(self, key: str) -> str:
        return self[key]


def plan_of(study: str, **changes: str) -> Plan:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    return load_plan({**raw, "study": study, **changes}, ROOT / "config/studies")


@pytest.fixture(scope="module")
def tiny() -> Plan:
    return plan_of("tiny")


def test_tiny_study_has_all_controls_with_an_adapter_and_all_adapters_with_attacks(tiny: Plan) -> None:
    prompts = [cell for cell in tiny.cells if cell.role == "quality"]
    assert {(cell.adapter, cell.control) for cell in prompts} == {
        (adapter, control)
        for adapter in ("none", "repbend")
        for control in (
            *("none", "random", "prompting", "value", "value_prompting", "static", "controlled_decoding", "cd_prefix"),
            *("best_of_2", "best_of_8"),
        )
    }
    attacked = [cell for cell in tiny.cells if cell.role == "safety" and cell.control == "none"]
    methods = {tiny.config["adapters"][cell.adapter].method for cell in attacked if cell.adapter != "none"}
    assert methods >= {"repbend", "circuit_breakers", "rmu", "npo", "dpo", "task_arithmetic"}
    attacks = {tiny.config["attacks"][cell.attack].method for cell in attacked}
    assert attacks >= {"direct", "prefilling", "embedding"}
    assert len(attacked) == len({cell.adapter for cell in attacked}) * len({cell.attack for cell in attacked})


def test_inputs_of_decoding_are_the_files_that_the_control_needs(tiny: Plan) -> None:
    def inputs(control: str) -> list[str]:
        model = "tiny+repbend"
        names = Wildcards(model=model, control=control)
        input_functions = (
            recontrol.control_value_model,
            recontrol.control_direction,
            recontrol.control_reward_model,
            recontrol.control_strength,
        )
        return [path for function in input_functions if isinstance(path := function(tiny.config, names), str)]

    value, reward = paths.value_model("tiny+repbend", "tiny_value"), paths.reward_model("tiny_reward")
    assert inputs("none") == inputs("prompting") == []
    assert inputs("value") == [value, paths.strength("tiny+repbend", "value")]
    assert inputs("random") == inputs("value")  # random has the same value network and strength
    assert inputs("value_prompting") == [value, paths.strength("tiny+repbend", "value_prompting")]
    assert inputs("static") == [
        paths.direction("tiny+repbend", "tiny_direction"),
        paths.strength("tiny+repbend", "static"),
    ]
    assert inputs("cd_prefix") == [value, paths.strength("tiny+repbend", "cd_prefix")]
    assert inputs("controlled_decoding") == [reward, paths.strength("tiny+repbend", "controlled_decoding")]
    assert inputs("best_of_8") == [reward]


def test_settings_of_decoding_have_the_guidance_reward_model_and_no_choice(tiny: Plan) -> None:
    best = recontrol.decoding_settings(tiny.config, Wildcards(model="tiny", control="best_of_8"))
    assert best["guidance_reward"]["max_length"] == 128
    value = recontrol.decoding_settings(tiny.config, Wildcards(model="tiny", control="value"))
    assert value["guidance_reward"] is None
    assert "choice" not in value["control"]


def test_projections_are_those_of_grids_with_states(tiny: Plan) -> None:
    assert tiny.projections == [("tiny", "repbend", "tiny_answers_test")]  # the second grid has none


def test_heldout_reward_is_scored_in_every_cell_of_quality(tiny: Plan) -> None:
    scores = [cell.scores() for cell in tiny.cells if cell.role == "quality"]
    assert all("/tiny_heldout_reward/" in files["heldout_reward"] for files in scores)
    assert all("/tiny_reward/" in files["reward"] for files in scores)


def test_cells_have_the_names_of_blocks_without_a_label() -> None:
    small = plan_of("real_small").summary("p")["cells"]
    names = ("none", "random", "prompting", "static", "value", "value_prompting", "controlled_decoding", "cd_prefix")
    assert {cell["control"] for cell in small} == {f"small_{name}" for name in (*names, "best_of_4")}
    assert {cell["adapter"] for cell in small} == {"none", "small_repbend"}
    methods = {cell["control"]: cell["method"] for cell in small}
    assert (methods["small_none"], methods["small_best_of_4"]) == ("none", "best_of_n")


def test_cells_have_the_labels_of_their_blocks() -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    raw["adapters"]["small_repbend"]["label"] = "RepBend, small"
    summary = load_plan({**raw, "study": "real_small"}, ROOT / "config/studies").summary("p")
    for entries in (summary["cells"], summary["capabilities"]):
        assert {entry["adapter"] for entry in entries} == {"none", "RepBend, small"}
    assert {entry["adapter"] for key in ("adapters", "states") for entry in summary[key]} == {"RepBend, small"}


def test_resources_are_no_settings_of_a_stage(tiny: Plan) -> None:
    assert "resources" not in settings(plan_of("paper_repbend").config["models"]["mistral_7b"])


def test_blocks_that_a_study_does_not_reach_are_not_used(tiny: Plan) -> None:
    assert "mistral_7b" not in tiny.used["models"]
    assert "mistral_7b" in plan_of("paper_repbend").used["models"]
    assert "ultrarm_13b" in plan_of("paper_recontrol").used["rewards"]


def test_sum_of_adapters_is_not_trained_but_its_parts_are_used() -> None:
    plan = plan_of("paper_repbend")
    sums = [(base, adapter) for base, adapter in plan.adapted if adapter == "paper_task_arithmetic"]
    assert sums and not set(sums) & set(plan.trained)
    assert {"paper_sft_safe", "paper_sft_unsafe"} <= set(plan.used["adapters"])
    assert not any("task_arithmetic" in path for path in plan.inputs() if path.startswith("results/adapters/"))


def test_adapters_of_one_method_keep_their_names_in_tables() -> None:
    cells = plan_of("paper_repbend").summary("published")["cells"]
    names = {"none", "repbend_mistral", "repbend_mistral_released", "paper_circuit_breakers"}
    assert names <= {cell["adapter"] for cell in cells}
    assert {cell["control"] for cell in cells} == {"none_512", "safety_prompt"}


def test_labels_and_printed_names_are_no_settings_of_a_stage() -> None:
    plan = plan_of("paper_repbend")
    for section, name in (("adapters", "paper_dpo"), ("datasets", "paper_dan"), ("controls", "safety_prompt")):
        assert plan.config[section][name].printed_names
        assert not {"label", "published"} & set(settings(plan.config[section][name]))
        assert not {"label", "published"} & set(plan.config[section][name].model_dump())


def test_benchmark_runs_once_per_model_and_adapter() -> None:
    small = plan_of("real_small")
    assert len(small.benchmarks) == 2 * 3
    assert len([path for path in small.inputs() if path.startswith("results/capability/")]) == 2 * 3
    entries = small.summary("p")["capabilities"]
    assert {(entry["adapter"], entry["task"]) for entry in entries} == {
        (adapter, task) for adapter in ("none", "small_repbend") for task in ("mmlu", "gsm8k", "truthfulqa")
    }
    assert paths.capability("small+small_repbend", "small_mmlu") in {entry["path"] for entry in entries}


def test_files_of_a_benchmark_are_inputs_if_they_exist(tmp_path: Path) -> None:
    config = plan_of("real_small", data=str(tmp_path)).config

    def capability_files(name: str) -> list[str]:
        return evaluation.capability_files(config, Wildcards(capability=name))

    assert capability_files("small_mmlu") == []
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu/sample_150.csv").touch()
    assert capability_files("small_mmlu") == [str(tmp_path / "mmlu/sample_150.csv")]
    assert capability_files("paper_mmlu") == []
    block = evaluation.capability_settings(config, Wildcards(model="small", capability="small_mmlu"))["block"]
    assert block["source"]["local"] == str(tmp_path / "mmlu/sample_150.csv")


def test_base_and_adapter_reverses_model_name() -> None:
    assert paths.base_and_adapter(paths.model_name("a", "none")) == ("a", "none")
    assert paths.base_and_adapter(paths.model_name("a", "b")) == ("a", "b")


def test_one_of_matches_only_the_names() -> None:
    import re

    assert re.fullmatch(one_of(["a+b", "c"]), "a+b")
    assert not re.fullmatch(one_of(["a+b", "c"]), "aab")
    assert not re.fullmatch(one_of([]), "")


def test_only_short_jobs_of_judges_are_grouped_on_a_cluster(tiny: Plan) -> None:
    groups = {
        name: evaluation.safety_judge_group(tiny.config, Wildcards(safety_judge=name))
        for name in tiny.config["safety_judges"]
    }
    assert groups["truth"] == groups["refusal_matcher"] == "safety"
    assert groups["harmbench_13b"] is None
    assert {
        groups[name] for name in groups if tiny.config["safety_judges"][name].method in ("wildguard", "rubric")
    } == {None}


def test_second_attempt_gets_twice_the_memory_and_time_and_the_same_gpus(tiny: Plan) -> None:
    functions = resources(lambda wildcards: Resources(gpu=2, mem_mb=1000, runtime=30))
    assert (functions["mem_mb"](None, attempt=2), functions["runtime"](None, attempt=2)) == (2000, 60)
    assert functions["gpu"](None) == 2


def test_probes_of_scav_get_their_own_data_set_as_an_input(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    grid = {"models": ["tiny"], "adapters": ["none"], "controls": ["none"], "safety_judges": ["refusal_matcher"]}
    study = {"title": "x", "grids": [{**grid, "evaluation": ["tiny_safety_test"], "attacks": ["scav", "direct"]}]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    config = load_plan({**raw, "study": "s"}, tmp_path).config
    assert evaluation.attack_examples(config, Wildcards(attack="scav")) == "results/data/paper_xstest.parquet"
    assert evaluation.attack_examples(config, Wildcards(attack="direct")) == []
    apart = Plan(config).kept_apart("tiny_safety_test")
    assert apart["paper_xstest"] == "attacks.scav.probe_prompts"
    raw["attacks"]["scav"]["probe_prompts"] = "tiny_safety_test"
    with pytest.raises(ConfigError, match="'scav' has probe_prompts 'tiny_safety_test', which `evaluation` attacks"):
        load_plan({**raw, "study": "s"}, tmp_path)


def text_plan(tmp_path: Path, **changes: object) -> Plan:
    """Return the plan of a study that asks for all scores of text."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    raw["datasets"]["held_out"] = {
        "kind": "chat", "reader": "world", "source": {"world": {"part": "dialogues", "rows": 9, "seed": 7}},
    }  # fmt: skip
    grid = {
        "models": ["tiny"], "adapters": ["repbend"], "controls": ["none"], "prompts": ["tiny_test"],
        "evaluation": ["tiny_safety_test"], "attacks": ["direct", "prefilling"], "safety_judges": ["truth"],
        "perplexity": True, "repetition": True, "held_out_chats": ["held_out"], **changes,
    }  # fmt: skip
    (tmp_path / "text.yaml").write_text(yaml.safe_dump({"title": "Text", "grids": [grid]}))
    return load_plan({**raw, "study": "text"}, tmp_path)


def test_scores_of_text_are_of_answers_to_prompts_and_to_attacks_and_only_where_a_grid_asks(
    tmp_path: Path, tiny: Plan
) -> None:
    inputs = text_plan(tmp_path).inputs()
    wanted = {path for path in inputs if path.startswith(("results/scores/perplexity", "results/scores/repetition"))}
    answers = ["responses/tiny+repbend/tiny_test/none"]
    answers += [f"completions/tiny+repbend/tiny_safety_test/{attack}/none" for attack in ("direct", "prefilling")]
    assert wanted == {f"results/scores/{stage}/{a}.parquet" for stage in ("perplexity", "repetition") for a in answers}
    assert not any("perplexity" in path or "repetition" in path for path in tiny.inputs())


def test_perplexity_is_under_the_base_model_of_the_answers(tmp_path: Path) -> None:
    plan = text_plan(tmp_path)
    for answers in ("responses/tiny+repbend/tiny_test/none", "completions/tiny/tiny_safety_test/direct/none"):
        names = Wildcards(answers=answers)
        assert evaluation.perplexity_model(plan.config, names) == "results/models/tiny"
        assert evaluation.answered_data(plan.config, names) == f"results/data/{answers.split('/')[2]}.parquet"
        assert evaluation.perplexity_settings(plan.config, names) == {"dtype": plan.config["models"]["tiny"].dtype}


def test_held_out_chats_are_scored_with_and_without_adapters_and_kept_apart(tmp_path: Path) -> None:
    plan = text_plan(tmp_path)
    assert plan.chats == [("tiny", "none", "held_out"), ("tiny", "repbend", "held_out")]
    assert {paths.chat_perplexity(model, "held_out") for model in ("tiny", "tiny+repbend")} <= set(plan.inputs())
    assert paths.overlap("held_out") in plan.inputs() and "tiny_retain" in plan.kept_apart("held_out")
    with pytest.raises(ConfigError, match=r"held_out_chats: adapters.repbend.retain_chats learns from 'tiny_retain'"):
        text_plan(tmp_path, held_out_chats=["tiny_retain"])
    with pytest.raises(ConfigError, match=r"held_out_chats: 'tiny_test' is of kind 'prompts'; kind 'chat' is needed"):
        text_plan(tmp_path, held_out_chats=["tiny_test"])
