"""The index from the papers to the code names files, functions and keys that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rebend.config.base import Block
from rebend.config.catalogue import CATALOGUE, block_classes
from rebend.config.study import Grid, Study

ROOT = Path(__file__).parents[3]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
    for line in (ROOT / "docs/paper_index.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| paper")
]


def defined(module: Path) -> set[str]:
    """Names of functions, methods, classes and constants in a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def keys(kind: type[Block]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield name
        for inner in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(inner, type) and issubclass(inner, Block):
                yield from keys(inner)


def test_there_are_rows_of_both_papers() -> None:
    assert len(ROWS) > 50 and all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_files_and_functions_exist(row: list[str]) -> None:
    for part in row[1].split(";"):
        files, names = re.findall(r"`([\w/]+\.py)`", part), re.findall(r"`([A-Za-z_][\w.]*)`", part)
        modules = [ROOT / "src/rebend" / file for file in files]
        assert all(module.is_file() for module in modules), part
        known = set().union(*map(defined, modules))
        said = [name for found in names if not found.endswith(".py") for name in found.split(".")]
        assert not modules or set(said) <= known, f"{set(said) - known} in {files}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_keys_and_blocks_exist(row: list[str]) -> None:
    catalogue = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    blocks = {name for section in CATALOGUE for name in catalogue[section]}
    known = {key for section in CATALOGUE for kind in block_classes(section) for key in keys(kind)}
    known |= blocks | {*CATALOGUE, *keys(Grid), *keys(Study)}
    for code in re.findall(r"`([^`]+)`", row[2]):
        name = code.split(":")[0]
        assert name in known or (ROOT / name).exists(), f"no key or block '{name}'"
