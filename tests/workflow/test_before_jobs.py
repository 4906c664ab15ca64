"""Rules before and around the jobs: assets are fetched once, jobs run without network, and each job gets its GPU."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.io.files import read_json
from tests.helpers.hub_server import COMMIT, Hub, serving
from tests.workflow.checkout import Checkout
from tests.workflow.hub_layout import causal_model

LOCK = "config/assets.lock.json"
ROWS = b"".join(
    b'{"messages": [{"role": "user", "content": "jar %d"}, {"role": "assistant", "content": "turn it"}]}\n' % i
    for i in range(6)
)
NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = causal_model(tmp_path_factory.mktemp("hub") / "llama", "llama")
    with serving() as served:
        served.repos = {"open/llama": {path.name: path.read_bytes() for path in folder.iterdir()}}
        served.plain = {"/chats.jsonl": ROWS}
        yield served


@pytest.fixture
def fetched(checkout: Checkout, hub: Hub, tmp_path: Path) -> tuple[Checkout, str, dict[str, Any], dict[str, str]]:
    """A checkout with a study whose model and chats come from the hub server; study, blocks and environment."""
    change = {
        "datasets": {"chats": {"kind": "chat", "reader": "ultrachat", "source": {"url": f"{hub.url}/chats.jsonl"}}},
        "models": {"llama": {"hub": {"repo": "open/llama", "revision": "main"}}},
        "controls": {"short": {"method": "none", "decoding": {"max_new_tokens": 2}}},
        "adapters": {"far": {"like": "micro_adapter", "retain_chats": "chats", "target_layer_start_idx": 3}},
    }
    grid = {"models": ["llama"], "adapters": ["far"], "controls": ["short"], "prompts": ["micro_test"]}
    study = checkout.folder / "outside.yaml"
    study.write_text(yaml.safe_dump({"title": "From outside", "grids": [grid]}))
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "0"}
    return checkout, study.name, change, environment


def test_assets_are_fetched_once_and_other_jobs_run_without_network(fetched: Any, hub: Hub) -> None:
    checkout, study, change, environment = fetched
    done = checkout.snakemake("fetch", study=study, change=change, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lock = read_json(checkout.folder / LOCK)
    assert sorted(entry["kind"] for entry in lock.values()) == ["model", "url"]
    assert {entry["commit"] for entry in lock.values()} == {COMMIT, None}
    assert not (checkout.folder / "results/data").exists()  # only assets are fetched
    n_requests = len(hub.requests)
    targets = ["results/models/llama", "results/data/chats.parquet"]
    done = checkout.snakemake(*targets, study=study, change=change, environment={**environment, **NETWORK})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(hub.requests) == n_requests
    again = checkout.snakemake("fetch", *targets, study=study, change=change, environment={**environment, **NETWORK})
    assert "Nothing to be done" in again.stdout + again.stderr

    shutil.rmtree(checkout.folder / "results/assets")
    hub.plain["/chats.jsonl"] = ROWS[: len(ROWS) // 2]
    try:
        done = checkout.snakemake("fetch", study=study, change=change, environment=environment)
    finally:
        hub.plain["/chats.jsonl"] = ROWS
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "chats.jsonl: the fetched files differ from config/assets.lock.json" in output
    assert read_json(checkout.folder / LOCK) == lock


def test_local_jobs_that_run_together_use_different_gpus(checkout: Checkout) -> None:
    change = {"models": {"micro": {"resources": {"gpu": 1}}}}
    shards = [f"results/activations/micro/micro_rollouts/states-0000{i}-of-00002.parquet" for i in (0, 1)]
    names = {"CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(checkout.folder)}
    done = checkout.snakemake(*shards, change=change, environment={**os.environ, **names})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Provided resources:.*\bgpu\b.*2", done.stdout + done.stderr)  # two jobs at a time
    logs = checkout.folder / "results/logs"
    n_gpus = [log.read_text().count("on GPU") for log in (logs / "extract_activations").rglob("*.log")]
    assert n_gpus == [1, 1]
    assert "on GPU" not in (logs / "train_tiny_model/micro.log").read_text()


def test_more_gpus_than_the_machine_has_are_refused_before_any_job(checkout: Checkout) -> None:
    adapter = {"zero": 1, "ranks": 4, "batch_size": 4, "micro_batch": 1}
    change = {"models": {"micro": {"resources": {"gpu": 3}}}, "adapters": {"micro_adapter": adapter}}
    done = checkout.snakemake(change=change, environment={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"})
    assert done.returncode != 0
    assert "adapters.micro_adapter.ranks: a job needs 4 GPUs, this machine has 2" in done.stdout + done.stderr
    assert "models.micro.resources: a job needs 3 GPUs, this machine has 2" in done.stdout + done.stderr
    assert not list(checkout.folder.glob("results/logs/**/*.log"))


def test_plan_prints_the_jobs_of_a_study_and_a_cap_refuses_them(checkout: Checkout) -> None:
    plan = checkout.snakemake("plan")
    assert plan.returncode == 0, plan.stderr
    table = [line.split() for line in plan.stdout.splitlines()]
    jobs = {row[0]: int(row[1]) for row in table if len(row) > 2 and row[1].isdigit()}
    assert jobs["train_adapter"] == 1 and jobs["extract_activations"] == 2 and "plan" not in jobs
    assert jobs["total"] == sum(jobs.values()) - jobs["total"]
    assert checkout.would_run() == {rule for rule in jobs if rule != "total"}
    assert not (checkout.folder / "results").exists()

    refused = checkout.snakemake(change={"budget": {"disk_gb": 1.0e-6}})
    output = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "no job was started" in output and "budget.disk_gb: about" in output and "is above the cap 1e-06" in output
    assert not list(checkout.folder.glob("results/logs/**/*.log"))
