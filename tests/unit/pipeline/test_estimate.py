"""The estimate of a run: measured or guessed times, sizes, judges' requests, and caps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rebend.config.base import settings
from rebend.config.load import load_config
from rebend.config.study import Caps
from rebend.data.assets import model_asset, source_asset
from rebend.errors import ConfigError
from rebend.io.files import write_json
from rebend.pipeline.cost import work
from rebend.pipeline.cost.estimate import budget_table, check_caps, estimate
from rebend.pipeline.cost.history import Measured, measured_jobs
from rebend.pipeline.cost.sizes import Facts
from rebend.pipeline.cost.work import PlannedJob, Work, bytes_of, work_of
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan

ROOT = Path(__file__).parents[3]


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """Sizes of RE-Control's study in a folder without results."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    templates = tmp_path / "resources/templates"
    templates.parent.mkdir()
    templates.symlink_to(ROOT / "resources/templates")
    monkeypatch.chdir(tmp_path)
    return Facts(Plan(load_config({**raw, "study": "paper_recontrol"}, ROOT / "config/studies")))


def decoding(model: str = "llama3_8b", tokens: int = 128, gpus: int = 1, **control: Any) -> PlannedJob:
    control = {"method": "none", "decoding": {"max_new_tokens": tokens}, **control}
    inputs = [paths.model(model), paths.data("paper_hh_test")]
    return PlannedJob("decode", {"control": control}, inputs, gpus=gpus)


def done(job: PlannedJob, seconds: float, device: str = "NVIDIA H100", size: int = 10, **notes: Any) -> Measured:
    return Measured(job.rule, job.settings, job.inputs, ["x"], seconds, device, size, notes)


def judging(**judge: Any) -> PlannedJob:
    judge = {"method": "openai", "sample": 300, "max_tokens": 100, "price_in": None, "price_out": None, **judge}
    return PlannedJob("judge_win_rate", {"judge": judge}, [paths.data("paper_hh_test")])


def test_sizes_come_from_names_without_prepared_models(facts: Facts) -> None:
    assert facts.parameters("models/llama3_8b") == 8e9
    assert facts.parameters("models/llama3_8b+repbend_llama3") == 8e9
    assert facts.parameters("encoders/simcse") == 1.1e8 and "results/encoders/simcse" in facts.guesses
    assert facts.parameters("encoders/minilm") == 2.3e7
    tiny = facts.plan.config["models"]["tiny"].tiny
    assert facts.parameters("models/tiny") == tiny.vocab_size * 128 + 12 * tiny.n_layers * 128**2
    assert facts.parameters("reward_models/tiny_reward") == facts.parameters("models/tiny")
    assert facts.parameters("models/smollm2") == 1.35e8  # by the name of its GGUF file
    prepared = PlannedJob("prepare_model", {"format": "gguf"}, [], [paths.model("smollm2")])
    linked = PlannedJob("prepare_model", {"format": "hub folder"}, [], [paths.model("llama3_8b")])
    assert bytes_of(prepared, facts) == 4 * 1.35e8 and bytes_of(linked, facts) is None


def test_parameters_of_a_prepared_model_are_counted(facts: Facts) -> None:
    Path(paths.model("llama3_8b")).mkdir(parents=True)
    for number in (1, 2):
        save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, f"{paths.model('llama3_8b')}/m-{number}.safetensors")
    assert facts.parameters("models/llama3_8b") == 2 * 22


def test_sizes_of_fetched_assets_come_from_the_lock_file(facts: Facts) -> None:
    hub = facts.plan.config["encoders"]["simcse"].hub
    source = facts.plan.config["datasets"]["paper_shp_train"].source
    asset = source_asset(source)
    assert asset is not None
    files = {"a.bin": {"size": 26, "sha256": ""}, "tokenizer.json": {"size": 900, "sha256": ""}}
    rows = {"a/train.json": {"size": 5_000_000, "sha256": ""}}
    write_json(
        paths.ASSET_LOCK,
        {model_asset(hub).name: {"size": 926, "files": files}, asset.name: {"size": 5_000_000, "files": rows}},
    )
    facts = Facts(facts.plan)
    assert facts.parameters("encoders/simcse") == 13
    assert facts.rows("paper_shp_train") == 5000
    fetch = PlannedJob("fetch_asset", asset.settings(), [], [paths.asset(asset.name)])
    assert bytes_of(fetch, facts) == 5_000_000
    assert not facts.guesses


def test_rows_come_from_the_prepared_data_or_the_configuration(facts: Facts) -> None:
    assert facts.rows("paper_hh_test") == 8550
    write_json(paths.record(paths.data("paper_hh_test")), {"notes": {"rows": 990}})
    assert Facts(facts.plan).rows("paper_hh_test") == 990
    assert facts.rows("tiny_test") == 300
    facts.rows("paper_xstest")
    assert facts.guesses == {"results/data/paper_xstest.parquet": "500 rows"}


def test_sampled_pairs_are_all_tries_of_all_prompts(facts: Facts) -> None:
    block = facts.plan.config["datasets"]["smollm2_pairs"]
    for name, rows in (("train_strongreject", 7), ("train_simple_safety", 3)):
        write_json(paths.record(paths.data(f"smollm2_{name}")), {"notes": {"rows": rows}})
    assert facts.rows("smollm2_train_prompts") == 10
    assert facts.rows("smollm2_pairs") == 2 * 3 * 10  # a safe and an unsafe row, three answers
    job = PlannedJob("sample_pairs", {"name": "smollm2_pairs", "block": settings(block)}, [paths.model("llama3_8b")])
    assert work_of(job, facts) == Work("decode", 10 * 8 * 48 * 8e9)
    instructed = {**settings(block), "safe": {"file": None, "instruction": "x"}}
    job = PlannedJob("sample_pairs", {"name": "smollm2_pairs", "block": instructed}, [paths.model("llama3_8b")])
    assert work_of(job, facts) == Work("decode", 2 * 10 * 8 * 48 * 8e9)


def test_sampled_chats_are_one_answer_per_prompt(facts: Facts) -> None:
    block = facts.plan.config["datasets"]["smollm2_harmless_chats"]
    write_json(paths.record(paths.data("smollm2_harmless_questions")), {"notes": {"rows": 11}})
    write_json(paths.record(paths.data("smollm2_chats")), {"notes": {"rows": 4}})
    assert facts.rows("smollm2_harmless_chats") == 11 and facts.rows("smollm2_retain") == 15
    inputs = [paths.model("llama3_8b")]
    job = PlannedJob("sample_chats", {"name": "smollm2_harmless_chats", "block": settings(block)}, inputs)
    assert work_of(job, facts) == Work("decode", 11 * 64 * 8e9)


def test_rewards_from_an_endpoint_need_no_model_on_this_machine(facts: Facts) -> None:
    inputs = [paths.data("paper_hh_test"), paths.reward_model("llama_7b_rm")]
    loaded = PlannedJob("score_reward", {"reward": {"http": None}}, inputs)
    remote = PlannedJob("score_reward", {"reward": {"http": {"model": "m-1"}}}, inputs)
    assert work_of(loaded, facts).kind == "forward" and work_of(remote, facts) == Work("rows", 8550)


def test_time_is_that_of_the_nearest_jobs_times_the_ratio_of_work(facts: Facts) -> None:
    history = {"decode": [done(decoding(tokens=64), 50.0), done(decoding("gemma2_2b", 1), 3.0)]}
    (row,) = estimate([decoding(tokens=128)], facts, {"decode": history["decode"][:1]})
    assert row.hours == pytest.approx(100 / 3600) and row.gpu_hours == pytest.approx(row.hours)
    assert row.basis == "measured, 1 job"
    many = [done(decoding(tokens=128), seconds) for seconds in (90.0, 100.0, 110.0, 100.0, 100.0)]
    (row,) = estimate([decoding(tokens=128)], facts, {"decode": [*history["decode"], *many]})
    assert row.hours == pytest.approx(100 / 3600)  # the nearest five exclude the first two jobs
    assert len(row.measured) == 5


def test_time_is_proportional_to_the_parameters(facts: Facts) -> None:
    history = {"decode": [done(decoding("gemma2_2b"), 10.0)]}
    (row,) = estimate([decoding("llama3_8b")], facts, history)
    assert row.hours == pytest.approx(40 / 3600)


def test_gpu_jobs_are_not_compared_with_cpu_jobs(facts: Facts) -> None:
    history = {"decode": [done(decoding(), 1e6, device="cpu")]}
    (row,) = estimate([decoding()], facts, history)
    assert row.basis == "guess" and 0 < row.gpu_hours < 10
    (row,) = estimate([decoding(gpus=0)], facts, history)
    assert row.basis == "measured, 1 job" and row.gpu_hours == 0


def test_gpu_hours_count_each_gpu(facts: Facts) -> None:
    adapter = {"max_step": 10, "batch_size": 4, "max_length": 512, "lora_r": 16}
    job = PlannedJob("train_adapter", {"adapter": adapter}, [paths.model("llama3_8b")], gpus=4)
    (row,) = estimate([job], facts, {"train_adapter": [done(job, 3600.0)]})
    assert row.hours == pytest.approx(1) and row.gpu_hours == pytest.approx(4)


def test_record_with_an_older_format_is_ignored(facts: Facts) -> None:
    old = Measured("decode", {"decoding": 1}, [], [], 5.0, "NVIDIA H100", 0, {})
    (row,) = estimate([decoding()], facts, {"decode": [old]})
    assert row.basis == "guess"


def test_hidden_states_take_two_bytes_per_number_up_to_their_limit(facts: Facts) -> None:
    write_json(f"{paths.model('llama3_8b')}/config.json", {"hidden_size": 4096})
    block = settings(facts.plan.config["activations"]["hh_greedy"])
    facts.rows = lambda name: 1000  # type: ignore[assignment, method-assign]
    job = PlannedJob("extract_activations", {"activations": {**block, "shards": 4}}, [paths.model("llama3_8b")])
    assert bytes_of(job, facts) == 1000 * 128 * 4096 * 2 / 4
    limited = {**block, "shards": 4, "max_bytes": 1_000_000}
    assert bytes_of(PlannedJob(job.rule, {"activations": limited}, job.inputs), facts) == 250_000
    streamed = {**block, "states": "streamed"}
    assert bytes_of(PlannedJob(job.rule, {"activations": streamed}, job.inputs), facts) == 1000 * 128 * 4


def test_other_results_have_the_size_of_earlier_ones(facts: Facts) -> None:
    (row,) = estimate([decoding(), decoding()], facts, {"decode": [done(decoding(), 1.0, size=2_000_000)]})
    assert row.disk_gb == pytest.approx(0.004)


def test_judge_requests_are_two_per_row_and_cost_their_prices(facts: Facts) -> None:
    (row,) = estimate([judging(price_in=10.0, price_out=20.0)], facts, {})
    assert row.tokens == 600 * (900 + 100)
    assert row.dollars == pytest.approx(600 * (900 * 10 + 100 * 20) / 1e6)
    spent = {"spent_now": {"asked": 10, "tokens_in": 5000, "tokens_out": 300}}
    (row,) = estimate([judging()], facts, {"judge_win_rate": [done(judging(), 9.0, **spent)]})
    assert row.tokens == 600 * (500 + 30) and row.unpriced
    (free,) = estimate([judging(method="world_rubric")], facts, {})
    assert free.tokens == 0 and not free.unpriced


@pytest.mark.parametrize(
    ("caps", "message"),
    [
        (
            {"gpu_hours": 1.0},
            r"budget\.gpu_hours: about 2 is above the cap 1; 2 of it by decode \(measured, 1 job",
        ),
        ({"disk_gb": 0.001}, r"budget\.disk_gb: about 0\.0025 is above the cap 0\.001; 0\.0015 of it by"),
        ({"dollars": 1.0}, r"budget\.dollars: a judge has no `price_in` and `price_out`, so the cap cannot be checked"),
    ],
)
def test_estimate_above_a_cap_is_refused_with_the_largest_rule(
    facts: Facts, caps: Mapping[str, float], message: str
) -> None:
    history = {"decode": [done(decoding(), 7200.0, size=1_500_000)]}
    estimates = estimate([decoding(), judging()], facts, history)
    check_caps(Caps(gpu_hours=2.1, disk_gb=1.0), estimates)
    with pytest.raises(ConfigError, match=message) as error:
        check_caps(Caps(**caps), estimates)
    assert "no job was started" in str(error.value)


def test_table_has_a_row_per_rule_a_total_and_the_guesses(facts: Facts) -> None:
    history = {"decode": [done(decoding(), 7200.0)]}
    lines = budget_table(estimate([decoding(), decoding(), judging()], facts, history), facts)
    assert lines[0].split()[:2] == ["rule", "jobs"]
    assert re.match(r"decode +2 +4 +4 +\S+ +- +- +measured, 1 job$", lines[2])
    assert re.match(r"judge_win_rate +1 .* 600,000 +no prices +guess$", lines[3])
    assert lines[4].split()[:2] == ["total", "3"]
    facts.rows("paper_xstest")
    assert "guessed: 500 rows for results/data/paper_xstest.parquet" in budget_table([], facts)


def test_measured_jobs_reads_records_and_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = Path(paths.responses("m", "d", "none"))
    result.parent.mkdir(parents=True)
    result.write_bytes(b"12345")
    record = {"stage": "decode", "settings": {}, "inputs": [], "seconds": 3.0, "notes": {"rows": 2}}
    log = "results/logs/decode/m/d/none.log"
    full_record = {**record, "digests": {str(result): "0"}, "device": "NVIDIA H100", "log": log}
    write_json(paths.record(str(result)), full_record)
    model = Path(paths.model("m"))
    model.mkdir(parents=True)
    (model / "tokenizer.json").write_text("not even JSON")  # files inside checkpoints are not read
    write_json(paths.record(str(model)), {**record, "stage": "train_tiny_model"})
    (job,) = measured_jobs()["decode"]
    assert (job.seconds, job.bytes, job.device, job.notes["rows"]) == (3.0, 5, "NVIDIA H100", 2)
    benchmark = Path("results/benchmarks/decode/m/d/none.tsv")
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\n4.5\t0:00:04\n")
    (job,) = measured_jobs()["decode"]
    assert job.seconds == 4.5
    for shard in ("states-00000-of-00001", "states-00001-of-00002"):  # inside a folder that has a record too
        write_json(f"{paths.activations('m', 'a')}/{shard}.run.json", {**record, "stage": "extract_activations"})
    write_json(paths.record(paths.activations("m", "a")), {**record, "stage": "gather_activations"})
    write_json("results/studies/s/tables.run.json", {**record, "stage": "make_tables"})
    assert {stage: len(jobs) for stage, jobs in measured_jobs().items() if stage.startswith(("ex", "ga", "ma"))} == {
        "extract_activations": 2,
        "gather_activations": 1,
        "make_tables": 1,
    }
    assert [one.device for one in measured_jobs()["train_tiny_model"]] == ["cpu"]


def test_every_rule_with_a_model_has_its_work() -> None:
    rules = {
        name: text
        for file in (ROOT / "workflow/rules").glob("*.smk")
        for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", file.read_text(), re.M | re.S)
    }
    on_models = {name for name, text in rules.items() if "**resources(" in text}
    assert on_models and on_models <= set(work._RULES)
    assert set(work._RULES) <= set(rules)


def test_unknown_rule_has_constant_work(facts: Facts) -> None:
    assert work_of(PlannedJob("some_rule", {}, []), facts) == Work("job", 1.0)


def test_caps_are_read_from_the_configuration(facts: Facts) -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = load_config({**raw, "budget": {"gpu_hours": 5.0}}, ROOT / "config/studies")
    assert config.budget.given() == {"gpu_hours": 5.0}
    with pytest.raises(ConfigError, match=r"budget\.gpu_hour: unknown key.*Did you mean 'gpu_hours'"):
        load_config({**raw, "budget": {"gpu_hour": 5.0}}, ROOT / "config/studies")
    assert json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())["properties"]["budget"]
