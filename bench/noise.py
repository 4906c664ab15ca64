"""An A/A run: decode and score a finished study a second time with the same settings, and compare the tables.

The second run has links to data, models, adapters, activations and value networks of the first, and makes responses,
completions, scores and verdicts again. Only texts that changed are sent to judges behind an address. The differences
are printed and written to `results/noise/<study>.csv`. On a CPU, only times may differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from noise_floor import differences, summary

from rebend.report.tables.all import read_tables

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
MADE_AGAIN = (
    "responses",
    "completions",
    "scores",
    "win_rate_verdicts",
    "safety_verdicts",
    "studies",
    "tables",
    "figures",
    "noise",
)
LEFT_OUT = ("results", ".snakemake", ".git", ".venv")


def main() -> None:
    """Build the second run, compare it with the first, and print and write the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="tiny")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--configfile", nargs="*", default=[], help="further files of the catalogue")
    parser.add_argument("--data", help="folder of the user's files, the same as in the first run")
    arguments = parser.parse_args()
    tables = f"studies/{Path(arguments.study).stem}/tables"
    root = Path.cwd()
    if not (root / "results" / tables).is_dir():
        sys.exit(f"results/{tables} does not exist: build the study first")
    with tempfile.TemporaryDirectory(dir=root / "results", prefix=".noise-") as folder:
        second = Path(folder)
        prepare(root, second)
        files = ["--configfile", "config/config.yaml", *arguments.configfile] if arguments.configfile else []
        data = [f"data={Path(arguments.data).absolute()}"] if arguments.data else []
        command = [SNAKEMAKE, f"results/{tables}", "--cores", arguments.cores, "--quiet", "host", *files]
        subprocess.run([*command, "--config", f"study={arguments.study}", *data], cwd=second, check=True)
        table = differences(read_tables(root / "results" / tables), read_tables(second / "results" / tables))
    print(table[table["differ"] > 0].to_string(index=False))
    print(summary(table))
    path = root / "results/noise" / f"{Path(arguments.study).stem}.csv"
    path.parent.mkdir(exist_ok=True)
    table.to_csv(path, index=False)


def prepare(first: Path, second: Path) -> None:
    """Fill the folder `second` with links to the first run, without the results in MADE_AGAIN."""
    for entry in first.iterdir():
        if entry.name not in LEFT_OUT:
            (second / entry.name).symlink_to(entry)
    (second / "results").mkdir()
    for entry in (first / "results").iterdir():
        if (
            entry.is_dir()
            and entry.name not in (*MADE_AGAIN, "logs", "benchmarks", "progress")
            and entry.name[0] != "."
        ):
            shutil.copytree(entry, second / "results" / entry.name, symlinks=True, copy_function=os.link)


if __name__ == "__main__":
    main()
