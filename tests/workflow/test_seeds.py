"""An adapter with `seeds` is trained once per seed."""

from __future__ import annotations

import json
import re

from tests.workflow.checkout import Checkout


def seeds(*numbers: int) -> dict[str, object]:
    return {"adapters": {"micro_adapter": {"seeds": list(numbers)}}}


def test_each_seed_is_trained_and_another_seed_trains_only_itself(checkout: Checkout) -> None:
    paths = [f"results/adapters/micro/micro_adapter_seed_{seed}" for seed in (0, 3)]
    done = checkout.snakemake(*paths, change=seeds(0, 3))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    records = [json.loads((checkout.folder / f"{path}.run.json").read_text()) for path in paths]
    assert [record["settings"]["adapter"]["seed"] for record in records] == [0, 3]
    weights = [(checkout.folder / path / "adapter_model.safetensors").read_bytes() for path in paths]
    assert weights[0] != weights[1]
    other = checkout.snakemake("--dry-run", f"{paths[1][:-1]}4", *paths, change=seeds(0, 3, 4))
    jobs = re.findall(r"^(train_\w+) +(\d+)$", other.stdout + other.stderr, re.MULTILINE)
    assert set(jobs) == {("train_adapter", "1")}
