"""Measure the workflow itself: how long it takes to start, to find nothing to do, and to plan a sweep; then RepBend.

With a finished demo in `results/`, also which share of its jobs' time goes to starting Python and importing.
`--demo` builds the demo from nothing first, in a copy, on two cores, and times it. Everything is written to
`bench/latest.json`. `bench/repbend.py`, which trains against the released algorithm for a quarter of an hour, and
`bench/control.py`, which decodes against the released ascent, follow unless `--quick` is given.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from latest import keep, known_figures

ROOT = Path(__file__).parents[1]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
KEPT = ("repbend_", "control_", "extract_", "label_", "train_", "value_", "disk_", "scale_", "slurm_")  # of others
MICRO = ROOT / "tests/workflow/micro/blocks.yaml"


def main() -> None:
    """Measure, print a line per figure, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", action="store_true", help="build the demo from nothing first, on two cores")
    parser.add_argument("--quick", action="store_true", help="the workflow alone, without the two methods")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("Snakefile", "config", "workflow", "profiles", "resources"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / part)
        figures: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "python": sys.version[:6]}
        figures["python_start_s"] = seconds([sys.executable, "-c", "pass"], copy)
        figures["parse_s"] = seconds([SNAKEMAKE, "--cores", "1", "--list-rules"], copy)
        figures |= plan_of_many(copy, 1000)
        if asked.demo:
            figures["demo_wall_s"] = seconds([SNAKEMAKE, "--cores", "2", "--quiet"], copy)
            figures["nothing_to_do_s"] = seconds([SNAKEMAKE, "--cores", "2", "--quiet"], copy)
        figures |= shares((copy if asked.demo else ROOT) / "results", figures.get("demo_wall_s"))
    for name, value in figures.items():
        print(f"{name:28} {value}")
    keep(figures, forget=[name for name in known_figures() if not name.startswith(KEPT)])
    if not asked.quick:
        for file in ("repbend.py", "control.py", "activations.py"):
            subprocess.run([sys.executable, ROOT / "bench" / file], check=True)


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of a command that must succeed; its output is kept for when it does not."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return round(time.perf_counter() - start, 2)


def plan_of_many(folder: Path, variants: int) -> dict[str, Any]:
    """Dry run of a sweep with so many adapters, each trained, merged, decoded and judged."""
    sweep = [round(0.001 * number, 4) for number in range(1, variants + 1)]
    blocks = folder / "sweep.yaml"
    blocks.write_text(yaml.safe_dump({"adapters": {"many": {"like": "micro_adapter", "beta": {"sweep": sweep}}}}))
    study = folder / "sweep_study.yaml"
    grid = {
        "models": ["micro"],
        "adapters": ["none", "many"],
        "controls": ["micro_none"],
        "evaluation": ["micro_safety"],
        "safety_judge": "micro_truth",
    }
    study.write_text(yaml.safe_dump({"title": "many", "grids": [grid]}))
    files = ["--configfile", "config/config.yaml", str(MICRO), str(blocks), "--config", f"study={study}"]
    command = [SNAKEMAKE, "--cores", "1", "--dry-run", "--quiet", "all", *files]
    return {"plan_variants": variants, "plan_s": seconds(command, folder)}


def shares(results: Path, wall: float | None) -> dict[str, Any]:
    """How long the finished jobs took (Snakemake's benchmark files), and how much of it was work.

    Each record holds the time from the first line of a stage's work, imports included, to its result. What
    is left of a job's time is starting Python and handing over to the warm process. Imports that a warm
    process still does are measured by running them alone in one.
    """
    jobs: dict[str, list[float]] = {}
    for file in (results / "benchmarks").rglob("*.tsv"):
        stage = file.relative_to(results / "benchmarks").parts[0]
        jobs.setdefault(stage, []).append(float(file.read_text().splitlines()[1].split("\t")[0]))
    if not jobs:
        return {}
    records = [json.loads(file.read_text()) for file in results.rglob("*.run.json") if file.stat().st_size]
    records = [record for record in records if isinstance(record, dict) and "stage" in record]
    total, work = sum(sum(times) for times in jobs.values()), sum(record["seconds"] for record in records)
    importing = sum(warm_imports(record["stage"]) for record in records)
    found = {
        "jobs": len(records),
        "jobs_s": round(total, 1),
        "starting_s": round(total - work, 1),
        "importing_s": round(importing, 1),
        "largest_peak_mib": max(record["peak_mib"] for record in records),
        "jobs_s_by_stage": {stage: round(sum(times), 1) for stage, times in sorted(jobs.items())},
    }
    if wall is not None:  # in core seconds, two cores
        overhead = 2 * wall - total + (total - work) + importing
        found["snakemake_and_idle_share"] = round(max(0.0, 1 - total / (2 * wall)), 3)
        found["starting_and_importing_share"] = round((total - work + importing) / (2 * wall), 3)
        found["all_but_work_share"] = round(overhead / (2 * wall), 3)
    return found


@cache
def warm_imports(stage: str) -> float:
    """Seconds that a script's imports take in a process that has imported what the warm server imports."""
    tree = ast.parse((ROOT / f"workflow/scripts/{stage}.py").read_text())
    lines = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    code = (
        "import contextlib, importlib, time\n"
        "from rebend.pipeline.jobs.warm_start import HEAVY\n"
        "for module in HEAVY: importlib.import_module(module)\n"
        "start = time.perf_counter()\n" + "\n".join(lines) + "\nprint(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
