"""A job refuses to start after an edit of its code or settings; a started job keeps the code that it started with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rebend.pipeline.jobs import planned_version
from rebend.pipeline.jobs.planned_version import VARIABLE, digest_of, write_plan

SOURCE = Path(planned_version.__file__).parents[2]
SCRIPT = "scripts/room/job.py"  # as deep as a stage's script
JOB = """
import sys, time
from pathlib import Path
from rebend.pipeline.jobs.planned_version import check_planned
check_planned("stage", "results/x.json", sys.argv[1], {"lr": float(sys.argv[2])})
print("checked", flush=True)
sys.stdin.readline()
from rebend.evaluation.diversity import diversity
from rebend.config.base import Block
print(diversity("a b c d e f g h"))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the library, and a script that imports two of its modules."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, tmp_path / "src/rebend", ignore=ignored)
    (tmp_path / SCRIPT).parent.mkdir(parents=True)
    (tmp_path / SCRIPT).write_text(JOB)
    return tmp_path


def python(package: Path, *arguments: str, plan: str | None = None) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | {"PYTHONPATH": str(package / "src")}
    environment |= {VARIABLE: plan} if plan else {}
    pipe = subprocess.PIPE
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=package, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def code_of(package: Path) -> str:
    out, err = python(
        package,
        "-c",
        "from rebend.pipeline.jobs.code_version import code_version; print(code_version('scripts/room/job.py'))",
    ).communicate()
    assert out, err
    return out.strip()


@pytest.fixture
def plan(package: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The plan file of a run with the unchanged library and a learning rate of 1."""
    monkeypatch.setenv(VARIABLE, "")  # so that pytest restores it
    write_plan({"results/x.json": (code_of(package), {"lr": 1.0})}, "", package / "plans")
    return os.environ[VARIABLE]


def edit(package: Path, module: str = "evaluation/diversity") -> None:
    file = package / f"src/rebend/{module}.py"
    file.write_text(file.read_text() + '\n\ndef diversity(text):\n    return "of another version"\n')


def test_planned_job_runs(package: Path, plan: str) -> None:
    out, err = python(package, SCRIPT, code_of(package), "1.0", plan=plan).communicate("\n")
    assert out == "checked\n0.625\n", err


def test_job_refuses_to_start_after_an_edit(package: Path, plan: str) -> None:
    code = code_of(package)
    edit(package)
    out, err = python(package, SCRIPT, code, "1.0", plan=plan).communicate("\n")  # as in a local run
    assert out == ""
    assert "stage: the code was edited during the run" in err
    out, err = python(package, SCRIPT, code_of(package), "1.0", plan=plan).communicate("\n")  # as on a cluster
    assert out == ""
    assert "stage: the code or the configuration was edited during the run" in err


def test_edit_of_an_unreached_module_is_ignored(package: Path, plan: str) -> None:
    edit(package, "report/formatting")
    out, err = python(package, SCRIPT, code_of(package), "1.0", plan=plan).communicate("\n")
    assert out == "checked\n0.625\n", err


def test_job_with_other_settings_is_refused(package: Path, plan: str) -> None:
    out, err = python(package, SCRIPT, code_of(package), "2.0", plan=plan).communicate("\n")
    assert out == ""
    assert "Let the run end or stop it, then start it again" in err


def test_edit_after_the_start_does_not_affect_the_job(package: Path, plan: str) -> None:
    process = python(package, SCRIPT, code_of(package), "1.0", plan=plan)
    assert process.stdout is not None
    assert process.stdout.readline() == "checked\n"
    edit(package)
    edit(package, "config/base")
    out, err = process.communicate("\n")
    assert out == "0.625\n", err


def test_job_without_a_plan_is_not_compared(package: Path) -> None:
    out, err = python(package, SCRIPT, "other", "1.0").communicate("\n")
    assert out == "checked\n0.625\n", err


RANK = """
import subprocess
sys.stdin.readline()
code = "from rebend.pipeline.jobs.planned_version import check_same_sources; check_same_sources('train_adapter')"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr or "same")
"""


@pytest.mark.parametrize(("edited", "message"), [(False, "same"), (True, "train_adapter: the code was edited")])
def test_rank_refuses_to_start_after_an_edit(package: Path, plan: str, edited: bool, message: str) -> None:
    (package / SCRIPT).write_text(JOB.split("sys.stdin")[0] + RANK)
    write_plan({"results/x.json": (code_of(package), {"lr": 1.0})}, "", package / "plans")
    process = python(package, SCRIPT, code_of(package), "1.0", plan=os.environ[VARIABLE])
    assert process.stdout is not None
    assert process.stdout.readline() == "checked\n"
    if edited:
        edit(package, "report/formatting")
    out, err = process.communicate("\n")
    assert message in out, err


def test_old_plans_are_deleted_and_recent_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that pytest restores it
    for name, days in (("recent", 29), ("old", 31)):
        (tmp_path / f"{name}.json").write_text("{}")
        when = time.time() - days * 86400
        os.utime(tmp_path / f"{name}.json", (when, when))
    write_plan({}, "", tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"recent", Path(os.environ[VARIABLE]).stem}


def test_digest_covers_code_and_settings() -> None:
    assert len({digest_of("a", {}), digest_of("b", {}), digest_of("a", {"x": 1})}) == 3
    assert digest_of("a", {"x": 1, "y": 2}) == digest_of("a", {"y": 2, "x": 1})
