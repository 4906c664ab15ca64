"""Measure the workflow: starting, planning a sweep, and a run with nothing to do. Then run the other benchmarks.

For a finished demo in `results/`, also the share of its jobs' time that starting Python and importing take. `--demo`
first builds the demo in a copy, on two cores, and measures the time. All figures are written to `bench/latest.json`.
`repbend.py` (a quarter of an hour), `control.py` and `activations.py` follow unless `--quick` is given.
"""

from __future__ import annotations

import argparse
import ast
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

from rebend.pipeline.cost.history import job_records

ROOT = Path(__file__).parents[1]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
KEPT = (
    "repbend_",
    "control_",
    "extract_",
    "label_",
    "train_",
    "value_",
    "disk_",
    "scale_",
    "slurm_",
    "mixed_lengths_",
)  # prefixes of the other benchmarks' figures
MICRO = ROOT / "tests/workflow/micro/blocks.yaml"


def main() -> None:
    """Measure, print the figures and add them to `bench/latest.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", action="store_true", help="build the demo from nothing first, on two cores")
    parser.add_argument("--quick", action="store_true", help="the workflow alone, without the two methods")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("Snakefile", "config", "workflow", "profiles", "resources"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / part)
        figures: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "python": sys.version[:6]}
        figures["python_start_s"] = seconds([sys.executable, "-c", "pass"], copy)
        figures["parse_s"] = seconds([SNAKEMAKE, "--cores", "1", "--list-rules"], copy)
        figures |= plan_of_many(copy, 1000)
        if arguments.demo:
            figures["demo_wall_s"] = seconds([SNAKEMAKE, "--cores", "2", "--quiet"], copy)
            figures["nothing_to_do_s"] = seconds([SNAKEMAKE, "--cores", "2", "--quiet"], copy)
        figures |= shares((copy if arguments.demo else ROOT) / "results", figures.get("demo_wall_s"))
    for name, value in figures.items():
        print(f"{name:28} {value}")
    keep(figures, forget=[name for name in known_figures() if not name.startswith(KEPT)])
    if not arguments.quick:
        for file in ("repbend.py", "control.py", "activations.py"):
            subprocess.run([sys.executable, ROOT / "bench" / file], check=True)


def seconds(command: list[str], folder: Path) -> float:
    """Return the wall time of a command. If it fails, exit with its output."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return round(time.perf_counter() - start, 2)


def plan_of_many(folder: Path, variants: int) -> dict[str, Any]:
    """Return the time of a dry run of a sweep with `variants` adapters, each trained, merged, decoded and judged."""
    sweep = [round(0.001 * number, 4) for number in range(1, variants + 1)]
    blocks = folder / "sweep.yaml"
    blocks.write_text(
        yaml.safe_dump({"adapters": {"many": {"like": "micro_adapter", "beta": {"sweep": sweep}}}}), encoding="utf-8"
    )
    study = folder / "sweep_study.yaml"
    grid = {
        "models": ["micro"],
        "adapters": ["none", "many"],
        "controls": ["micro_none"],
        "evaluation": ["micro_safety"],
        "safety_judges": ["micro_truth"],
    }
    study.write_text(yaml.safe_dump({"title": "many", "grids": [grid]}), encoding="utf-8")
    files = ["--configfile", "config/config.yaml", str(MICRO), str(blocks), "--config", f"study={study}"]
    command = [SNAKEMAKE, "--cores", "1", "--dry-run", "--quiet", "all", *files]
    return {"plan_variants": variants, "plan_s": seconds(command, folder)}


def shares(results: Path, wall: float | None) -> dict[str, Any]:
    """Return the time of the finished jobs (Snakemake's benchmark files), and the shares of starting and importing.

    A record has the time of the stage's script, imports included. The rest of a job's time is the start of Python and
    of the warm process. The time of imports that a warm process still has to do is measured separately.
    """
    jobs: dict[str, list[float]] = {}
    for file in (results / "benchmarks").rglob("*.tsv"):
        stage = file.relative_to(results / "benchmarks").parts[0]
        jobs.setdefault(stage, []).append(float(file.read_text(encoding="utf-8").splitlines()[1].split("\t")[0]))
    if not jobs:
        return {}
    records = list(job_records(results))
    total, work = sum(sum(times) for times in jobs.values()), sum(record["seconds"] for record in records)
    importing = sum(warm_imports(record["stage"]) for record in records)
    figures = {
        "jobs": len(records),
        "jobs_s": round(total, 1),
        "starting_s": round(total - work, 1),
        "importing_s": round(importing, 1),
        "largest_peak_mib": max(record["peak_mib"] for record in records),
        "jobs_s_by_stage": {stage: round(sum(times), 1) for stage, times in sorted(jobs.items())},
    }
    if wall is not None:  # in core seconds, two cores
        overhead = 2 * wall - total + (total - work) + importing
        figures["snakemake_and_idle_share"] = round(max(0.0, 1 - total / (2 * wall)), 3)
        figures["starting_and_importing_share"] = round((total - work + importing) / (2 * wall), 3)
        figures["all_but_work_share"] = round(overhead / (2 * wall), 3)
    return figures


@cache
def warm_imports(stage: str) -> float:
    """Return the seconds of a script's imports in a process that has imported the warm server's modules."""
    (script,) = (ROOT / "workflow/scripts").rglob(f"{stage}.py")
    tree = ast.parse(script.read_text(encoding="utf-8"))
    lines = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    code = (
        "import contextlib, importlib, time\n"
        "from rebend.pipeline.jobs.warm_start import HEAVY\n"
        "for module in HEAVY: importlib.import_module(module)\n"
        "start = time.perf_counter()\n" + "\n".join(lines) + "\nprint(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
