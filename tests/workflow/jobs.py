"""Single jobs of a study that was built, started again as Snakemake starts them, without Snakemake."""

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
    """The same checkout with the same results, which are links: stages replace files and never write into them."""
    shutil.copytree(built.folder, folder, copy_function=_link)
    sources = (file for part in ("src", "workflow") for file in (folder / part).rglob("*.py"))
    for edited_in_place in (*folder.rglob("*.log"), *sources):
        content = edited_in_place.read_bytes()
        edited_in_place.unlink()
        edited_in_place.write_bytes(content)
    return Checkout(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


class Job:
    """The job whose record is `record`, in a checkout; `server` is the address of a warm server, or "off"."""

    def __init__(self, checkout: Checkout, record: str, server: str) -> None:
        self.checkout, self.server = checkout, server
        self.record = checkout.folder / record
        self.facts: dict[str, Any] = json.loads(self.record.read_text())
        self.stage: str = self.facts["stage"]
        # The script as Snakemake wrote it, with the paths of this job in it.
        scripts = (checkout.folder / ".snakemake/scripts").glob(f"*.{self.stage}.py")
        self.script = next(path for path in scripts if record in path.read_text())

    def digests(self) -> dict[str, str]:
        """Digests of the results that are there now."""
        return {path: file_digest(self.checkout.folder / path) for path in self.facts["digests"]}

    def forget(self) -> None:
        """Remove the results, as Snakemake does before it starts a job."""
        for path in (*self.facts["digests"], self.record):
            (self.checkout.folder / path).unlink(missing_ok=True)

    def start(self) -> subprocess.Popen[str]:
        """Start it."""
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
        """Run it to its end; status and what it said, the log included."""
        process = self.start()
        said = "".join(process.communicate())
        return process.returncode, said + self.log()

    def log(self) -> str:
        """What is in its log."""
        logs = (self.checkout.folder / "results/logs" / self.stage).rglob("*.log")
        return "".join(log.read_text() for log in sorted(logs, key=lambda log: log.stat().st_mtime)[-1:])

    def kill_after(self, seconds: float, how: signal.Signals) -> int:
        """Start it, end the process that does the work so long after it began, and return the status."""
        process = self.start()
        worker = None
        while worker is None and process.poll() is None:
            worker = self.owner()
            time.sleep(0.005)
        time.sleep(seconds)
        if worker is not None:
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(worker, how)
        process.communicate(timeout=60)
        return process.returncode

    def owner(self) -> int | None:
        """The process that owns the progress of this stage; None if none does."""
        progress = self.checkout.folder / "results/progress" / self.stage
        for lock in progress.glob("*.lock"):
            words = lock.read_text().split()
            if len(words) == 4:
                return int(words[1])
        return None
