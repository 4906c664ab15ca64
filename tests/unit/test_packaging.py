"""What the extras of pyproject.toml install, and that constraints.txt pins it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

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
    """Return the packages that an extra adds, those of extras inside it included."""
    names: set[str] = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "rebend":
            names |= {name for inner in requirement.extras for name in direct(inner)}
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def installed_with(names: Iterable[str]) -> set[str]:
    """Return these packages and all that they require, as the installed ones declare it."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        waiting += [
            requirement.name
            for requirement in map(Requirement, _requirements(name))
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


def _requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


CORE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


def test_the_demo_needs_no_tools_of_developers() -> None:
    assert not installed_with(CORE | direct("demo")) & TOOLS


def test_the_tools_of_developers_add_every_study() -> None:
    assert direct("studies") < direct("dev")
    assert direct("demo") < direct("studies")
    assert direct("dev") >= TOOLS


def test_constraints_pin_what_the_makefile_installs() -> None:
    assert not (CORE | direct("dev")) - PINNED


def test_the_makefile_installs_extras_that_exist() -> None:
    named = re.findall(r"'\.\[(\w+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert named == ["demo", "studies", "dev"]
    assert set(named) <= set(EXTRAS)
