"""Folders with unusual names, and locales that are not UTF-8."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.workflow.checkout import ROOT, Checkout

NAMES = ["it's a folder", "Größe (ß) & 数"]
# With the second, Python's default encoding is ASCII; then it cannot print a folder's name that is not ASCII.
LOCALES = [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
TEXT = "Wie heißt „Tee“ auf 日本語?"


def environment_in(folder: Path) -> Path:
    """Make a virtual environment in `folder` that sees this one's packages; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (site,) = (folder / ".venv/lib").glob("python3*/site-packages")
    (site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return folder / ".venv/bin/python"


@pytest.mark.parametrize(("name", "locale"), [(NAMES[0], LOCALES[1]), (NAMES[1], LOCALES[0])])
def test_job_runs_in_a_folder_with_an_unusual_name_in_any_locale(
    tmp_path: Path, name: str, locale: dict[str, str]
) -> None:
    checkout = Checkout.make(tmp_path / name)
    python = environment_in(checkout.folder)
    (checkout.folder / "mine.csv").write_text(f"prompt\n{TEXT}\n", encoding="utf-8")
    source = {"local": str(checkout.folder / "mine.csv"), "world": None}
    block = {"kind": "prompts", "reader": "table", "source": source}
    target = "results/data/micro_test.parquet"
    command = checkout.command(target, change={"datasets": {"micro_test": block}})
    done = subprocess.run(
        [str(python), "-m", "snakemake", *command[1:]],
        cwd=checkout.folder,
        env={**checkout.environment(), **locale},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = pq.read_table(checkout.folder / target).to_pylist()
    assert row["messages"][0]["content"] == TEXT
    assert (checkout.folder / "results/data/micro_test.run.json").is_file()


@pytest.mark.parametrize("sign", ["{", "}", "$", '"', "`", ":", ";", "\\"])
def test_make_refuses_a_folder_that_cannot_work_before_it_installs(tmp_path: Path, sign: str) -> None:
    folder = tmp_path / f"a{sign}b"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    done = subprocess.run(["make", "demo"], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode != 0 and "cannot run in the folder" in done.stderr and f"a{sign}b" in done.stderr
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("name", [*NAMES, "plain"])
def test_make_accepts_other_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path / name)
    done = subprocess.run(["make", "help"], cwd=tmp_path / name, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
