"""Single jobs of a finished study, started again without Snakemake from the scripts that Snakemake wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rebend.io.checksums import file_digest
from tests.workflow.checkout import Checkout


def copy_of(built: Checkout, folder: Path) -> Checkout:
    """Return a copy of a checkout. Files are hard links, because stages replace results and never write into them.

    Logs, sources, benchmarks and Snakemake's metadata are real copies: jobs append to logs, tests edit sources, and
    Snakemake writes benchmarks and metadata in place.
    """
    shutil.copytree(built.folder, folder, copy_function=_link)
    sources = (source for part in ("src", "workflow") for source in (folder / part).rglob("*.py"))
    metadata = (path for path in (folder / ".snakemake/metadata").rglob("*") if path.is_file())
    for file in (*folder.rglob("*.log"), *folder.rglob("results/benchmarks/**/*.tsv"), *sources, *metadata):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    return Checkout(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the folder is on another file system
        shutil.copy2(source, target)


class Job:
    """The job of a checkout with the record `record`; `server` is the address of a warm server, or "off"."""

    def __init__(self, checkout: Checkout, record: str, server: str) -> None:
        self.checkout, self.server = checkout, server
        self.record = checkout.folder / record
        self.facts: dict[str, Any] = json.loads(self.record.read_text())
        self.stage: str = self.facts["stage"]
        # Snakemake writes one script per job, with the job's paths in it.
        scripts = (checkout.folder / ".snakemake/scripts").glob(f"*.{self.stage}.py")
        self.script = next(path for path in scripts if record in path.read_text())

    def digests(self) -> dict[str, str]:
        """Return the digests of the present results."""
        return {path: file_digest(self.checkout.folder / path) for path in self.facts["digests"]}

    def forget(self) -> None:
        """Delete the results, as Snakemake does before it starts a job."""
        for path in (*self.facts["digests"], self.record):
            (self.checkout.folder / path).unlink(missing_ok=True)

    def start(self) -> subprocess.Popen[str]:
        """Start the job."""
        environment = {**self.checkout.environment(), "REBEND_WARM": self.server}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, self.script],
            cwd=self.checkout.folder,
            env=environment,
            text=True,
            stdout=pipe,
            stderr=pipe,
        )

    def run(self) -> tuple[int, str]:
        """Run it to its end; X."""
        process = self.start()
        output = "".join(process.communicate())
        return process.returncode, output + self.log()

    def log(self) -> str:
        """Return the text of the stage's newest log."""
        logs = (self.checkout.folder / "results/logs" / self.stage).rglob("*.log")
        return "".join(log.read_text() for log in sorted(logs, key=lambda log: log.stat().st_mtime)[-1:])

    def kill_after(self, seconds: float, number: signal.Signals) -> int:
        """Start the job, send a signal to its worker after `seconds`, and return the job's status."""
        process = self.start()
        worker = None
        while worker is None and process.poll() is None:
            worker = self.owner()
            time.sleep(0.005)
        time.sleep(seconds)
        if worker is not None:
            with suppress(ProcessLookupError):  # the worker has ended already
                os.kill(worker, number)
        process.communicate(timeout=60)
        return process.returncode

    def owner(self) -> int | None:
        """Return the id of the process that holds the lock of the stage's progress, None if there is none."""
        progress = self.checkout.folder / "results/progress" / self.stage
        for lock in progress.glob("*.lock"):
            words = lock.read_text().split()
            if len(words) == 4:
                return int(words[1])
        return None
