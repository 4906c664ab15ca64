"""The extras of pyproject.toml install the right packages, and constraints.txt pins them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TOOLS = {"lm-eval", "trl", "polars", "duckdb", "mypy", "ruff", "pytest", "snakefmt", "pre-commit", "statsmodels"}
PINNED = {
    canonicalize_name(line.split("==")[0])
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line and not line.startswith("#")
}


def direct(extra: str) -> set[str]:
    """Return the packages of an extra, including those of the extras that it contains."""
    names: set[str] = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "rebend":
            names |= {name for inner in requirement.extras for name in direct(inner)}
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def installed_with(names: Iterable[str]) -> set[str]:
    """Return these packages and their requirements, direct and indirect, as installed packages declare them."""
    packages: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in packages:
            continue
        packages.add(name)
        waiting += [
            requirement.name
            for requirement in map(Requirement, _requirements(name))
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return packages


def _requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


CORE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


def test_demo_installs_no_developer_tools() -> None:
    assert not installed_with(CORE | direct("demo")) & TOOLS


def test_dev_contains_studies_and_studies_contains_demo() -> None:
    assert direct("studies") < direct("dev")
    assert direct("demo") < direct("studies")
    assert direct("dev") >= TOOLS


def test_constraints_pin_the_packages_of_the_makefile() -> None:
    assert not (CORE | direct("dev")) - PINNED


@pytest.mark.parametrize("target", ["demo", "fetch", "plan"])
@pytest.mark.parametrize("files", ["", "mine.yaml", "mine.yaml 'caps.yaml"])
def test_make_gives_snakemake_the_files_of_configfile(tmp_path: Path, target: str, files: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    snakemake = tmp_path / ".venv/bin/snakemake"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\n')
    snakemake.chmod(0o755)
    (tmp_path / ".venv/.demo").touch()
    subprocess.run(["make", target, f"CONFIGFILE={files}"], cwd=tmp_path, check=True, capture_output=True)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    given = arguments[arguments.index("--configfile") + 1 : arguments.index("--config")] if files else []
    assert given == (["config/config.yaml", *files.split()] if files else [])
    assert ("--configfile" in arguments) == bool(files) and "study=tiny" in arguments


def test_makefile_installs_existing_extras() -> None:
    extras = re.findall(r"'\.\[(\w+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert extras == ["demo", "studies", "dev"]
    assert set(extras) <= set(EXTRAS)
