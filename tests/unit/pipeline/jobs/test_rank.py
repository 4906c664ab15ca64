"""A rank runs its module only if the library's files are those of the job that launched it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rebend.pipeline.jobs.code_version import sources, sources_digest
from rebend.pipeline.jobs.planned_version import SOURCES

MODULE = """
import sys


def main(check):
    check()
    print("arguments", sys.argv)
"""


@pytest.mark.parametrize("same", [True, False])
def test_rank_checks_the_library_before_its_module_runs(tmp_path: Path, same: bool) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    python_path = os.pathsep.join([str(tmp_path), *sys.path])
    digest = sources_digest(sources()) if same else "of other files"
    rank = subprocess.run(
        [sys.executable, "-m", "rebend.pipeline.jobs.rank", "work", "job.json"],
        env={**os.environ, "PYTHONPATH": python_path, SOURCES: digest},
        capture_output=True,
        text=True,
    )
    if same:
        assert rank.stdout == "arguments ['work', 'job.json']\n", rank.stderr
    else:
        assert rank.returncode != 0 and rank.stdout == ""
        assert "train_adapter: the code was edited during the run" in rank.stderr
