"""A copy of the workflow and the library in a separate folder, run through Snakemake's command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "config", "workflow", "profiles", "resources", "src", "tests/workflow/micro")
MICRO = "tests/workflow/micro"


@dataclass(frozen=True)
class Checkout:
    """A checkout in `folder`. Its own library comes first on the path, so edits of it have an effect."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Checkout:
        """Copy the files that the workflow needs to `folder`."""
        for part in PARTS:
            source = ROOT / part
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copyfile(source, target)
        return cls(folder)

    def snakemake(
        self,
        *arguments: str,
        study: str = f"{MICRO}/study.yaml",
        change: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake on a study, with `change` merged into the catalogue."""
        return subprocess.run(
            self.command(*arguments, study=study, change=change),
            cwd=self.folder,
            env={**self.environment(), **(environment or {})},
            capture_output=True,
            text=True,
        )

    def command(
        self, *arguments: str, study: str = f"{MICRO}/study.yaml", change: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Return the command line of `snakemake`."""
        files = ["config/config.yaml", f"{MICRO}/blocks.yaml"]
        if change is not None:
            file = self.folder / f"change-{abs(hash(repr(change)))}.yaml"
            file.write_text(yaml.safe_dump(dict(change)))
            files.append(file.name)
        snakemake = str(Path(sys.executable).with_name("snakemake"))
        return [snakemake, *arguments, "--cores", "2", "--configfile", *files, "--config", f"study={study}"]

    def environment(self) -> dict[str, str]:
        """Return the environment in which Python imports this checkout's library."""
        return {**os.environ, "PYTHONPATH": str(self.folder / "src"), "HF_HUB_OFFLINE": "1"}

    def would_run(self, *, change: Mapping[str, Any] | None = None) -> set[str]:
        """Return the names of the rules that a dry run would run now, without the rule `all`."""
        done = self.snakemake("--dry-run", change=change)
        assert done.returncode == 0, done.stdout + done.stderr
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\ntotal", done.stdout + done.stderr, re.DOTALL)
        return {line.split()[0] for line in table.group(1).splitlines()} - {"all"} if table else set()
