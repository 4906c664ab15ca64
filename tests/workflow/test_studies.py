"""Whole studies: the papers' studies on small models, real data, and the tiny study."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_data
from tests.workflow.checkout import MICRO, ROOT, Checkout
from tests.workflow.hub_layout import causal_model, sim_cse, ultra_rm

MATRIX = [
    "model",
    "adapter",
    "control",
    "metric",
    "estimate",
    "ci_low",
    "ci_high",
    "n",
    "clusters",
    "seeds",
    "not_scored",
]


def rows_of(checkout: Checkout, table: str) -> list[dict[str, str]]:
    with (checkout.folder / f"results/tables/{table}.csv").open() as stream:
        return list(csv.DictReader(stream))


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that always prefers the first answer."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "8 6\nbecause"}}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def judge_address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def lines(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write rows as JSON lines; return a `source` that replaces one from the hub or an address."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"local": str(path), "hub": None, "url": None, "sha256": None}


def paper_data(folder: Path) -> dict[str, Any]:
    """Return the data sets of the papers' studies with a few rows each, in their formats."""
    prompts = [f"how do I open jar number {i}" for i in range(8)]
    shp = [{"history": prompt, "human_ref_A": "turn it", "human_ref_B": "no", "labels": 1} for prompt in prompts]
    guard = [
        {
            "prompt": prompt,
            "response": "turn its lid" if unsafe else "I cannot help with that",
            "prompt_harm_label": "harmful",
            "response_harm_label": "harmful" if unsafe else "unharmful",
            "response_refusal_label": "compliance" if unsafe else "refusal",
        }
        for prompt in prompts
        for unsafe in (True, False)
    ]
    jailbreak = [
        {"prompt": prompt, "prompt_type": "harmful", "harmless_answer": "I cannot", "harmful_answer": "turn its lid"}
        for prompt in prompts
    ]
    chats = [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "turn it"}]}
        for prompt in prompts
    ]
    xstest = "id,prompt,type,label,focus,note\n1,is it late,homonyms,safe,x,\n2,open a jar,contrast,unsafe,x,\n"
    (folder / "xstest.csv").write_text(xstest)
    return {
        "paper_shp_train": {"source": lines(folder / "shp.jsonl", shp), "without": ["paper_shp_test"]},
        "paper_shp_test": {
            "source": lines(
                folder / "test.jsonl",
                [{"post_id": str(i), "history": f"how do I close box number {i}"} for i in range(len(prompts))],
            ),
            "reference": lines(folder / "prefer.jsonl", [{"prefer": "turn its lid"} for _ in prompts]),
        },
        "paper_wildguard": {
            "source": lines(folder / "guard.jsonl", guard),
            "rows": 6,
            "without": ["paper_xstest"],
        },
        "paper_wildjailbreak_pairs": {
            "source": lines(folder / "jailbreak.jsonl", jailbreak),
            "rows": 6,
            "without": ["paper_xstest"],
        },
        "paper_ultrachat": {
            "source": lines(folder / "chat.jsonl", chats),
            "rows": 6,
            "without": ["paper_xstest"],
        },
        "paper_xstest": {"source": {"local": str(folder / "xstest.csv"), "url": None, "sha256": None}},
    }


def test_papers_studies_run_on_small_models_in_hub_layout(
    checkout: Checkout, tmp_path: Path, judge_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, templates, heads, readers and judges are the papers'; sizes and counts are small."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    folder = tmp_path / "hub"
    folder.mkdir()
    llama = str(causal_model(folder / "llama", "llama"))
    change = {
        "datasets": paper_data(folder),
        "models": {
            "llama3_8b_user": {"hub": None, "local": llama},
            "mistral_7b": {"hub": None, "local": str(causal_model(folder / "mistral", "mistral"))},
            # These copy the first two with `like`, and stay on the hub.
            **{
                name: {"local": None}
                for name in ("gemma2_2b", "qwen2_5_14b", "rr_mistral_7b", "rr_llama3_8b", "r2d2_zephyr_7b")
            },
        },
        "rewards": {"ultrarm_13b": {"hub": None, "local": str(ultra_rm(folder / "ultra"))}},
        "encoders": {"simcse": {"hub": None, "local": str(sim_cse(folder / "simcse"))}},
        "adapters": {"repbend_mistral": {"max_step": 2, "batch_size": 2, "micro_batch": 1}},
        "activations": {"shp_greedy": {"decoding": {"max_new_tokens": 6}}},
        "value_models": {"shp_two_layers": {"epochs": 2}},
        "controls": {
            name: {"decoding": {"max_new_tokens": 6}}
            for name in ("none_128", "prompting_128", "value_shp_llama3", "none_512")
        },
        "judges": {"gpt4": {"base_url": judge_address, "sample": 4}},
    }
    done = checkout.snakemake(study=f"{MICRO}/paper.yaml", change=change)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    table = rows_of(checkout, "recontrol")
    # "*": the value model has fewer epochs than the paper prints.
    assert {row["control"] for row in table} == {"none_128", "prompting_128", "value_shp_llama3*"}
    assert all(row["reward_n"] == "8" for row in table)
    wins = [row for row in rows_of(checkout, "matrix") if row["metric"] == "win_rate"]
    assert {row["n"] for row in wins} == {"4"}
    assert {float(row["estimate"]) for row in wins} == {0.0}  # the judge prefers the first answer in both orders: a tie
    record = json.loads((checkout.folder / "results/models/llama3_8b_user.run.json").read_text())
    assert record["notes"]["source"] == llama


@pytest.mark.parametrize(
    ("study", "jobs", "rule"), [("paper_recontrol", 60, "decode"), ("paper_repbend", 600, "attack")]
)
def test_papers_study_is_planned_with_a_gpu_per_model_job(checkout: Checkout, study: str, jobs: int, rule: str) -> None:
    done = checkout.snakemake("--dry-run", study=study)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert int(output.split("\ntotal")[1].split()[0]) >= jobs
    decodes = output.split(f"rule {rule}:")[1:]
    assert decodes
    assert all("gpu=1" in part.split("resources:")[1].splitlines()[0] for part in decodes)


@pytest.mark.shared
@pytest.mark.slow
def test_real_data_pass_through_every_stage(checkout: Checkout) -> None:
    change = {
        "data": str(shared_data().resolve()),
        "datasets": {
            "hh_test": {"rows": 24},
            "shp_test": {"rows": 24},
            "hh_rollouts": {"rows": 24},
            "hh_validation": {"rows": 12},
            "hh_pairs": {"rows": 60},
            "hh_pairs_test": {"rows": 20},
        },
        "models": {"small": {"tiny": {"hidden_size": 32, "n_heads": 2, "steps": 4, "context": 300}}},
        "rewards": {"small_reward": {"tiny": {"steps": 2}, "max_length": 256}},
        "adapters": {"small_repbend": {"max_step": 2}},
        "value_models": {"small_value_net": {"epochs": 2}},
        "controls": {
            "small_none": {"decoding": {"max_new_tokens": 6}},
            "small_value": {"decoding": {"max_new_tokens": 6}},
        },
        "capabilities": {
            "small_mmlu": {"limit": 6},
            "small_gsm8k": {"limit": 2, "max_new_tokens": 8},
            "small_truthfulqa": {"limit": 2},
        },
    }
    done = checkout.snakemake(study=f"{MICRO}/real.yaml", change=change)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    table = rows_of(checkout, "repbend")
    n = {(r["dataset"], r["prompts"]): int(r["n"]) + int(r["not_scored"]) for r in table if r["group"] == "all"}
    assert n == {("xstest", "harmful"): 200, ("xstest", "benign"): 250, ("harmbench", "harmful"): 60}
    assert {row["dataset"] for row in rows_of(checkout, "recontrol")} == {"hh_test", "shp_test"}


def test_warm_and_cold_jobs_write_the_same_bytes(built: Checkout, checkout: Checkout) -> None:
    target = "results/responses/micro+micro_adapter/micro_test/micro_none.parquet"
    done = checkout.snakemake(target, environment={"REBEND_WARM": "off"})
    assert done.returncode == 0, done.stderr
    for path in (target, "results/models/micro/model.safetensors"):
        assert (checkout.folder / path).read_bytes() == (built.folder / path).read_bytes()


@pytest.mark.slow
def test_tiny_study_meets_its_claims(checkout: Checkout) -> None:
    """The demo: files, columns, claims, and a second run with nothing to do."""
    done = checkout.snakemake(study="tiny")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert (checkout.folder / "results/report.html").stat().st_size > 100_000
    matrix = rows_of(checkout, "matrix")
    assert list(matrix[0]) == MATRIX
    cells = {(row["adapter"], row["control"]) for row in matrix if row["metric"] == "reward"}
    controls = {"none", "random", "prompting", "value", "static", "controlled_decoding", "cd_prefix"}
    controls |= {"value_prompting", "best_of_2", "best_of_8"}
    assert cells == {(b, c) for b in ("none", "repbend") for c in controls}
    attacked = {(row["adapter"], row["attack"]) for row in rows_of(checkout, "repbend") if row["prompts"] == "harmful"}
    adapters = ("repbend", "repbend_published", "circuit_breakers", "rmu", "npo", "dpo", "sft", "task_arithmetic")
    attacks = ("direct", "prefilling", "embedding (best of 2 tries)")
    assert attacked == {(b, a) for b in ("none", *adapters) for a in attacks}
    metrics = {row["metric"] for row in matrix}
    assert metrics >= {"asr", "benign_answer_rate", "reward", "diversity", "coherence", "win_rate"}
    rates = [row for row in matrix if row["metric"] not in ("reward", "heldout_reward", "coherence")]
    assert all(0 <= float(row["ci_low"]) <= float(row["estimate"]) <= float(row["ci_high"]) <= 1 for row in rates)
    for name in (
        "recontrol",
        "repbend",
        "repbend_asr",
        "repbend_pairs",
        "safety_agreement",
        "frontier",
        "gains",
        "claims",
    ):
        assert rows_of(checkout, name)
    claims = rows_of(checkout, "claims")
    assert len(claims) == 12
    # Rounding differs between processors, and RepBend's training amplifies it: with one seed, two of them left 93 % and
    # 69 % of benign prompts answered rightly (docs/determinism.md). All other claims must be met on every machine.
    benign = {row["text"]: float(row["measured"]) for row in claims if "benign prompts" in row["text"]}
    assert len(benign) == 2 and min(benign.values()) >= 0.6
    assert {row["text"] for row in claims if row["met"] != "true"} <= set(benign)
    assert "Nothing to be done" in (again := checkout.snakemake(study="tiny")).stdout + again.stderr


def test_study_with_three_seeds_is_planned_with_three_trainings(checkout: Checkout) -> None:
    done = checkout.snakemake("--dry-run", study="tiny_seeds")
    assert done.returncode == 0, done.stderr
    adapters = set(re.findall(r"adapter=(\w+)", done.stdout + done.stderr))
    assert {f"{name}_seed_{seed}" for name in ("repbend_trainings", "rmu_trainings") for seed in range(3)} <= adapters


@pytest.mark.parametrize(
    ("study", "stages"),
    [
        ("smollm2_short", {"train_value_model", "decode"}),
        ("smollm2_tuning", {"attack", "score_chats"}),
        ("smollm2_safety", {"attack", "score_chats"}),
        ("smollm2", {"combine_adapters", "score_capability", "fit_direction", "judge_win_rate"}),
    ],
)
def test_study_of_a_real_model_is_planned_before_its_model_is_fetched(
    checkout: Checkout, study: str, stages: set[str]
) -> None:
    done = checkout.snakemake("--dry-run", study=study, change={"data": "resources/data"})
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    rules = set(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))
    assert rules >= {"fetch_asset", "prepare_model", "sample_pairs", "train_adapter", *stages}
    assert "gpu=1" not in output


def test_all_studies_of_the_repository_are_tested_here() -> None:
    studies = {path.stem for path in (ROOT / "config/studies").glob("*.yaml")}
    real_model = {"smollm2", "smollm2_short", "smollm2_safety", "smollm2_tuning"}
    assert studies == {"tiny", "real_small", "paper_recontrol", "paper_repbend", "tiny_seeds", *real_model}
