"""A sum of adapters is built in the graph, and built again when a factor changes."""

from __future__ import annotations

import json

from tests.workflow.checkout import Checkout

MERGED = "results/models/micro+micro_sum"
FACTORS = {"micro_safe": 0.5, "micro_unsafe": -0.1}


def blocks(**factors: float) -> dict:
    common = {
        "method": "sft",
        "examples": "micro_samples",
        "paired_examples": "micro_pairs",
        "retain_chats": "micro_retain",
    }
    small = {"max_step": 2, "batch_size": 2, "lora_r": 2, "max_length": 64, "retain_weight": 0.0}
    parts = [{"adapter": name, "factor": factor} for name, factor in factors.items()]
    return {
        "adapters": {
            "micro_safe": {**common, **small},
            "micro_unsafe": {**common, **small, "answers": "unsafe"},
            "micro_sum": {"method": "task_arithmetic", "parts": parts},
        }
    }


def test_sum_of_adapters_is_built_from_its_parts_and_again_with_another_factor(checkout: Checkout) -> None:
    done = checkout.snakemake(MERGED, change=blocks(**FACTORS))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    record = json.loads((checkout.folder / "results/adapters/micro/micro_sum.run.json").read_text())
    assert record["stage"] == "combine_adapters" and record["notes"]["rank"] == 2 * 2
    for part in FACTORS:
        assert (checkout.folder / f"results/adapters/micro/{part}/metrics.parquet").exists()
    again = checkout.snakemake("--dry-run", MERGED, change=blocks(**FACTORS))
    assert "Nothing to be done" in again.stdout + again.stderr
    other = checkout.snakemake("--dry-run", MERGED, change=blocks(micro_safe=1.0, micro_unsafe=-0.1))
    output = other.stdout + other.stderr
    assert "combine_adapters" in output and "merge_adapter" in output and "train_adapter" not in output
