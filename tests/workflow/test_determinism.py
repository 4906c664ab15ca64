"""On a CPU, results do not depend on the number of cores and shards, and a second run gives the same numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.workflow.checkout import MICRO, ROOT, Checkout
from tests.workflow.jobs import copy_of

# Files with measured times, or with a list of shards.
NOT_COMPARED = re.compile(r"/(frontier|recontrol)\.\w+$|report\.html$|manifest\.json$|-of-\d{5}\.parquet$")


def digests(checkout: Checkout) -> dict[str, str]:
    """Return the digest of each result, from the run records."""
    by_path: dict[str, str] = {}
    for file in (checkout.folder / "results").rglob("*.run.json"):
        if isinstance(record := json.loads(file.read_text()), dict):
            by_path |= record.get("digests", {})
    return {path: digest for path, digest in by_path.items() if not NOT_COMPARED.search(path)}


def test_one_core_and_three_shards_give_the_same_bytes(built: Checkout, checkout: Checkout) -> None:
    command = checkout.command(change={"activations": {"micro_rollouts": {"shards": 3}}})
    command[command.index("--cores") + 1] = "1"
    done = subprocess.run(command, cwd=checkout.folder, env=checkout.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    expected, found = digests(built), digests(checkout)
    assert len(expected) > 150
    assert found == expected


SMALL = """
title: A part of the micro study
grids:
  - models: [micro]
    adapters: [micro_adapter]
    controls: [micro_none, micro_climb]
    prompts: [micro_test]
    evaluation: [micro_safety]
    attacks: [micro_prefilling]
    reward: micro_reward
    judge: micro_judge
    safety_judges: [micro_truth]
"""


def test_second_decoding_on_a_cpu_gives_the_same_tables(built: Checkout, tmp_path: Path) -> None:
    copy = copy_of(built, tmp_path / "copy")
    (copy.folder / "small.yaml").write_text(SMALL)
    done = copy.snakemake("results/studies/small/tables", study="small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, ROOT / "bench/noise.py", "--study", "small.yaml"]
    command += ["--configfile", f"{MICRO}/blocks.yaml"]
    done = subprocess.run(command, cwd=copy.folder, env=copy.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"agree in all \d{3,} numbers that are not times", done.stdout)
    assert "rule decode" in done.stdout + done.stderr
    lines = (copy.folder / "results/noise/small.csv").read_text().splitlines()
    assert lines[0] == "table,column,cells,differ,largest,time"
    assert any(line.startswith("matrix,estimate,") for line in lines)
    assert not list((copy.folder / "results").glob(".noise-*"))
