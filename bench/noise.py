"""An A/A run: decode and score a study that was built once more, with the same settings, and compare the tables.

Data, models, adapters, activations and value networks stay as they are (links, in a folder of its own); responses,
completions, scores and verdicts are made again. Judges behind an address are asked only about texts that changed. The
differences go to the screen and to `results/noise/<study>.csv`. On a CPU there must be none but times.
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
MADE_AGAIN = ("responses", "completions", "scores", "verdicts", "safety", "studies", "tables", "figures", "noise")
LEFT_OUT = ("results", ".snakemake", ".git", ".venv")


def main() -> None:
    """Build the second run beside the first, compare, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="tiny")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--configfile", nargs="*", default=[], help="further files of the catalogue")
    parser.add_argument("--data", help="the folder of the user's own files, as the first run had it")
    asked = parser.parse_args()
    tables = f"studies/{Path(asked.study).stem}/tables"
    here = Path.cwd()
    if not (here / "results" / tables).is_dir():
        sys.exit(f"results/{tables} is not there: build the study first")
    with tempfile.TemporaryDirectory(dir=here / "results", prefix=".noise-") as folder:
        second = Path(folder)
        prepare(here, second)
        files = ["--configfile", "config/config.yaml", *asked.configfile] if asked.configfile else []
        data = [f"data={Path(asked.data).absolute()}"] if asked.data else []
        command = [SNAKEMAKE, f"results/{tables}", "--cores", asked.cores, "--quiet", "host", *files]
        subprocess.run([*command, "--config", f"study={asked.study}", *data], cwd=second, check=True)
        found = differences(read_tables(here / "results" / tables), read_tables(second / "results" / tables))
    print(found[(found["differ"] > 0)].to_string(index=False))
    print(summary(found))
    kept = here / "results/noise" / f"{Path(asked.study).stem}.csv"
    kept.parent.mkdir(exist_ok=True)
    found.to_csv(kept, index=False)


def prepare(first: Path, second: Path) -> None:
    """Make a folder that is the first run without what is decoded and scored; its files are links."""
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
