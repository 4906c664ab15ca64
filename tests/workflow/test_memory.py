"""Memory of real jobs: what they ask for, what their benchmark files say, and what a killed one writes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.load import load_config
from rebend.pipeline.cost.memory import UNKNOWN_MB, Memory
from rebend.pipeline.graph.plan import Plan
from tests.workflow.checkout import MICRO, Checkout

LONG = {"models": {"micro": {"tiny": {"steps": 1_000_000}}}}  # a training of hours


def records(checkout: Checkout) -> list[dict[str, Any]]:
    """Return the records of a checkout that are of jobs with a benchmark."""
    files = (checkout.folder / "results").rglob("*.run.json")
    return [record for file in files if "peak_mib" in (record := json.loads(file.read_text()))]


def test_benchmark_files_show_the_work_of_warm_jobs(built: Checkout) -> None:
    checked = 0
    for record in records(built):
        file = built.folder / record["log"].replace("/logs/", "/benchmarks/", 1).removesuffix(".log")
        row = next(csv.DictReader(file.with_suffix(".tsv").open(), delimiter="\t"))
        # The record is written shortly before the process ends, so the benchmark has a little more.
        assert float(row["cpu_time"]) >= 0.98 * record["cpu_seconds"] - 0.02, record["log"]
        assert float(row["max_rss"]) >= 0.98 * record["peak_mib"], record["log"]
        checked += 1
    assert checked > 20


def test_finished_jobs_needed_no_more_than_they_asked_for(built: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    files = [Path("config/config.yaml"), Path(MICRO, "blocks.yaml")]
    raw: dict[str, Any] = {}
    for file in files:
        for section, blocks in yaml.safe_load(file.read_text()).items():
            raw[section] = {**raw.get(section, {}), **blocks} if isinstance(blocks, dict) else blocks
    memory = Memory(Plan(load_config({**raw, "study": f"{MICRO}/study.yaml"}, "config/studies")))
    asked = {}
    for record in records(built):
        names = wildcards(record)
        if names is not None:
            asked[record["stage"]] = memory.megabytes(record["stage"], names)
            assert 1.048 * record["peak_mib"] <= asked[record["stage"]] < UNKNOWN_MB, record["log"]
    assert len(asked) > 8


def wildcards(record: dict[str, Any]) -> Any:
    """Return the wildcards of a job by the parts of its log's path; None for a rule that is not checked here."""
    keys = {
        "train_adapter": ("base", "adapter"),
        "merge_adapter": ("base", "adapter"),
        "extract_activations": ("model", "activations"),
        "label_rewards": ("model", "activations", "reward"),
        "train_value_model": ("model", "value_model"),
        "choose_strength": ("model", "control"),
        "decode": ("model", "dataset", "control"),
        "attack": ("model", "dataset", "attack", "control"),
        "score_reward": ("reward", "model", "dataset", "control"),
        "score_coherence": ("encoder", "model", "dataset", "control"),
        "score_capability": ("model", "capability"),
    }.get(record["stage"])
    parts = record["log"].removeprefix(f"results/logs/{record['stage']}/").removesuffix(".log").split("/")
    if keys is None:
        return None
    return type("Names", (dict,), {"__getattr__": dict.__getitem__})(zip(keys, parts, strict=False))


def test_run_says_that_memory_ran_out(checkout: Checkout) -> None:
    command = checkout.command("results/models/micro", change=LONG)
    pipe = subprocess.PIPE
    run = subprocess.Popen(
        command, cwd=checkout.folder, env=checkout.environment(), text=True, stdout=pipe, stderr=subprocess.STDOUT
    )
    log = checkout.folder / "results/logs/train_tiny_model/micro.log"
    while not (log.exists() and "training" in log.read_text()):
        time.sleep(0.1)
        assert run.poll() is None, run.communicate()[0]
    (lock,) = (checkout.folder / "results/progress/train_tiny_model").glob("*.lock")
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    output = run.communicate(timeout=60)[0]
    assert run.returncode != 0
    assert "train_tiny_model: its process was killed (SIGKILL, exit status 137)" in output
    assert "models.micro.tiny.batch_size (smaller; now" in output
