"""An adapter with `seeds` is trained once per seed, and all its trainings are one row of the tables."""

from __future__ import annotations

import csv
import json

import yaml

from tests.workflow.checkout import Checkout

SEEDS = {"adapters": {"micro_adapter": {"seeds": [0, 3]}}}
STUDY = {
    "title": "Two trainings",
    "grids": [
        {"models": ["micro"], "adapters": ["none", "micro_adapter"], "controls": ["micro_none"],
         "evaluation": ["micro_safety"], "attacks": ["direct"], "safety_judges": ["micro_truth"]},
    ],
}  # fmt: skip


def test_each_seed_is_trained_and_tables_fold_them(checkout: Checkout) -> None:
    (checkout.folder / "seeds.yaml").write_text(yaml.safe_dump(STUDY))
    done = checkout.snakemake("results/studies/seeds/tables", study="seeds.yaml", change=SEEDS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    adapters = [checkout.folder / f"results/adapters/micro/micro_adapter_seed_{seed}" for seed in (0, 3)]
    records = [json.loads(path.with_name(f"{path.name}.run.json").read_text()) for path in adapters]
    assert [record["settings"]["adapter"]["seed"] for record in records] == [0, 3]
    weights = [(path / "adapter_model.safetensors").read_bytes() for path in adapters]
    assert weights[0] != weights[1]
    with (checkout.folder / "results/studies/seeds/tables/matrix.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "asr"]
    assert [(row["adapter"], row["n"], row["clusters"], row["seeds"]) for row in rows] == [
        ("none", "8", "8", "1"),
        ("micro_adapter", "16", "8", "2"),
    ]
    other = checkout.snakemake(
        "--dry-run", study="seeds.yaml", change={"adapters": {"micro_adapter": {"seeds": [0, 3, 4]}}}
    )
    output = other.stdout + other.stderr
    assert "micro_adapter_seed_4" in output and "adapter=micro_adapter_seed_3" not in output
