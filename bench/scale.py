"""Measure how the workflow grows: planning and resuming sweeps, and streaming stored states from disk.

A variant is an adapter with all RE-Control stages of its model: training, merging, ten shards of activations, rewards,
a value network, responses under control, two scores: 18 jobs. Sweeps of about 100, 1,000 and 10,000 jobs,
and one of 1,000 variants with ten shards each, are planned by dry runs: without results, with all results, and after a
change of a key of the value networks. "All results" are empty files with Snakemake's metadata of finished jobs.

Then one pass over a tenth of `--gigabytes` of stored states, and one over all of them, with the reader that value
training uses, each in a separate process.

    python bench/scale.py                     # half an hour, 2.5 GB in the folder for temporary files
    python bench/scale.py --gigabytes 0       # the sweeps alone
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from latest import keep

ROOT = Path(__file__).parents[1]
SIZES = {"100": 5, "1000": 55, "10000": 555, "1000_variants": 1000}  # name -> variants
SHARDS = 10
MICRO = "tests/workflow/micro/blocks.yaml"
WIDTH, TOKENS = 4096, 128  # states as RE-Control keeps them of an 8B model: 1 MiB a response in float16

# Snakemake's command line, but `--touch` creates missing files.
SNAKEMAKE = """
import sys
from snakemake.cli import main
from snakemake.executors import touch

touch.Executor.SLEEPING_TIME = 0
run_job = touch.Executor.run_job

def made(self, job):
    for file in job.output:
        file.touch_or_create()
    run_job(self, job)

touch.Executor.run_job = made
sys.argv[0] = "snakemake"
main()
"""


def main() -> None:
    """Run both parts, print the figures and add them to `bench/latest.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES), help="sweeps that are planned")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="stored states that are streamed")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(streamed(arguments.folder)))
        return
    figures: dict[str, Any] = {}
    for name in arguments.sizes:
        figures |= show(planned(name, SIZES[name]))
    if arguments.gigabytes:
        figures |= show(flat(arguments.gigabytes))
    keep(figures)


def show(figures: dict[str, Any]) -> dict[str, Any]:
    """Print figures and return them."""
    for name, value in figures.items():
        print(f"{name:44} {value}", flush=True)
    return figures


def planned(name: str, variants: int) -> dict[str, Any]:
    """Return CPU seconds, peak memory and number of jobs of three dry runs of a sweep.

    Snakemake plans on one core, so CPU seconds equal the wall time on a quiet machine.
    """
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        for part in ("Snakefile", "config", "workflow", "profiles", "resources", "tests/workflow/micro"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / part)
        write_sweep(folder, variants)
        figures = dry_run(folder, f"scale_plan_{name}")
        _, usage = snakemake(folder, ["--touch", "--quiet", "all", "--scheduler", "greedy"], cores=1000)
        figures[f"scale_made_{name}_cpu_s"] = seconds(usage)
        figures |= dry_run(folder, f"scale_done_{name}")
        changed = folder / "changed.yaml"
        changed.write_text(yaml.safe_dump({"value_models": {"micro_value": {"lr": 0.002}}}), encoding="utf-8")
        return figures | dry_run(folder, f"scale_changed_{name}", [changed.name])


def write_sweep(folder: Path, variants: int) -> None:
    """Write the blocks and the study of a sweep over `variants` adapters."""
    control = {"like": "micro_none", "method": "value", "value_model": "micro_value", "n_steps": 2, "step_size": 0.5}
    blocks = {
        "adapters": {
            "many": {"like": "micro_adapter", "beta": {"sweep": [round(0.001 * (i + 1), 4) for i in range(variants)]}}
        },
        "activations": {"micro_rollouts": {"shards": SHARDS}},
        "controls": {"fixed": control},
    }
    grid = {"models": ["micro"], "adapters": ["many"], "controls": ["fixed"], "prompts": ["micro_test"]}
    (folder / "blocks.yaml").write_text(yaml.safe_dump(blocks), encoding="utf-8")
    study = {"title": "many", "grids": [{**grid, "reward": "micro_reward"}]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def dry_run(folder: Path, name: str, more: list[str] | None = None) -> dict[str, Any]:
    """Return jobs, CPU seconds and peak memory of a dry run."""
    output, usage = snakemake(folder, ["--dry-run", "--quiet", "reason"], more)
    total = [line.split()[1] for line in output.splitlines() if line.startswith("total ")]
    return {
        f"{name}_jobs": int(total[0]) if total else 0,
        f"{name}_cpu_s": seconds(usage),
        f"{name}_peak_mib": round(usage.ru_maxrss / 1024),
    }


def seconds(usage: resource.struct_rusage) -> float:
    """Return the CPU time of a process."""
    return round(usage.ru_utime + usage.ru_stime, 1)


def snakemake(
    folder: Path, arguments: list[str], more: list[str] | None = None, cores: int = 1
) -> tuple[str, resource.struct_rusage]:
    """Run Snakemake; return its output and its resource usage."""
    files = ["config/config.yaml", MICRO, "blocks.yaml", *(more or [])]
    command = [sys.executable, "-c", SNAKEMAKE, "--cores", str(cores), *arguments, "--configfile", *files]
    log = folder / "output.txt"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*command, "--config", "study=sweep.yaml"], cwd=folder, stdout=stream, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text(encoding="utf-8")
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output[-6000:]}")
    return output, usage


def flat(gigabytes: float) -> dict[str, Any]:
    """Return the peak memory of one pass over a tenth of the states, and of one over all of them."""
    figures: dict[str, Any] = {}
    for name, share in (("tenth", 0.1), ("all", 1.0)):
        with tempfile.TemporaryDirectory() as folder:
            count = round(share * gigabytes * 1e9 / (WIDTH * TOKENS * 2))
            write_states(Path(folder), count)
            command = [sys.executable, __file__, "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
            measured = json.loads(done.stdout.splitlines()[-1])
        figures |= {f"scale_stream_{name}_{key}": value for key, value in measured.items()}
    growth = figures["scale_stream_all_peak_mib"] / figures["scale_stream_tenth_peak_mib"]
    return {**figures, "scale_stream_growth": round(growth, 3)}


def write_states(folder: Path, count: int) -> None:
    """Write an activations folder of `SHARDS` shards with random states of `count` responses, and their rewards."""
    import numpy as np
    import pyarrow as pa
    import torch

    from rebend.io.files import write_json, write_parquet
    from rebend.io.scores import score_table
    from rebend.recontrol.value_model.activation_store import (
        ACTIVATION_RESPONSES,
        MANIFEST,
        RESPONSES_FILE,
        ShardWriter,
        entry_of,
        state_schema,
    )

    rng = torch.Generator().manual_seed(0)
    block = torch.randn(TOKENS, WIDTH, generator=rng).half()
    names = [f"row{i}" for i in range(count)]
    out = folder / "activations"
    out.mkdir()
    shards = []
    for number in range(SHARDS):
        shards.append(out / f"states-{number:05d}-of-{SHARDS:05d}.parquet")
        writer = ShardWriter(shards[-1], state_schema(WIDTH, torch.float16, {}), torch.float16)
        for name in names[number * count // SHARDS : (number + 1) * count // SHARDS]:
            writer.add(f"{name}/0", [0] * TOKENS, block.roll(len(name), 0))
        writer.close()
    columns = [[f"{name}/0" for name in names], names, ["x"] * count, [TOKENS] * count, ["length"] * count]
    write_parquet(out / RESPONSES_FILE, pa.table(columns, schema=ACTIVATION_RESPONSES))
    facts = {"fingerprint": "", "layer": "final", "dtype": "float16", "hidden_size": WIDTH, "states": "stored"}
    entries = {"shards": [entry_of(path) for path in shards], "responses": entry_of(out / RESPONSES_FILE)}
    write_json(out / MANIFEST, {**facts, **entries})
    rewards = np.random.default_rng(0).standard_normal(count).tolist()
    write_parquet(folder / "rewards.parquet", score_table([f"{name}/0" for name in names], rewards))


def streamed(folder: Path) -> dict[str, Any]:
    """Return MB, MB/s and peak memory of one shuffled pass over the training responses, in batches of 32."""
    import numpy as np
    from repbend_cost import Memory

    from rebend.recontrol.value_model.activation_store import Activations
    from rebend.recontrol.value_model.examples import TRAIN, ValueData
    from rebend.recontrol.value_model.labels import Labels

    memory = Memory("cpu")
    start = time.perf_counter()
    data = ValueData(Activations(folder / "activations"), Labels.read(folder / "rewards.parquet"), 0.01, 0)
    read = 0
    for batch in data.batches(TRAIN, 32, np.random.default_rng(0)):
        read += sum(states.nbytes for states, _ in batch)
    seconds = time.perf_counter() - start
    return {"mb": round(read / 1e6), "mb_per_s": round(read / 1e6 / seconds), "peak_mib": round(memory.peak_mib(), 1)}


if __name__ == "__main__":
    main()
