"""WHP and weight orthogonalisation in the graph: built from what they name, and built again when it changes."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.workflow.checkout import Checkout

TRAINED = {
    "examples": "micro_samples", "paired_examples": "micro_pairs", "retain_chats": "micro_retain",
    "max_step": 2, "batch_size": 2, "lora_r": 2, "max_length": 64,
}  # fmt: skip
UNSAFE = {**TRAINED, "method": "sft", "answers": "unsafe", "retain_weight": 0.0}


def blocks(**changes: Any) -> dict[str, Any]:
    return {
        "adapters": {
            "micro_unsafe": UNSAFE | changes,
            "micro_whp": {**TRAINED, "method": "whp", "reinforced": "micro_unsafe"},
            "micro_orthogonal": {
                "method": "weight_orthogonalisation", "examples": "micro_samples", "target_layer": 1,
                "max_length": 64, "embeddings": False,
            },
        }
    }  # fmt: skip


def test_adapters_are_built_from_what_they_name(checkout: Checkout) -> None:
    folder = "results/adapters/micro"
    adapters = {"micro_whp": "train_adapter", "micro_orthogonal": "orthogonalise_weights"}
    targets = [f"{folder}/micro_whp", "results/models/micro+micro_orthogonal"]
    done = checkout.snakemake(*targets, change=blocks())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    records = {name: json.loads((checkout.folder / f"{folder}/{name}.run.json").read_text()) for name in adapters}
    assert {name: record["stage"] for name, record in records.items()} == adapters
    assert records["micro_orthogonal"]["notes"]["harmful"] > 0
    other = checkout.snakemake("--dry-run", *targets, change=blocks(lr=1.0e-3))
    # The reinforced adapter has another learning rate, so it and WHP are trained again, and nothing else is made.
    assert re.search(r"train_adapter +2\b", other.stdout) and "orthogonalise_weights" not in other.stdout
