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
    for line in (ROOT / "docs/paper_index.md").read_text(encoding="utf-8").split("\n## Settings")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| paper")
]


def defined(module: Path) -> set[str]:
    """Return the names of functions, methods, classes and constants in a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def keys(kind: type[Block]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield name
        for inner in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(inner, type) and issubclass(inner, Block):
                yield from keys(inner)


def test_index_has_rows_of_four_columns() -> None:
    assert len(ROWS) > 50 and all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_files_and_functions_exist(row: list[str]) -> None:
    for entry in row[1].split(";"):
        files, names = re.findall(r"`([\w/]+\.py)`", entry), re.findall(r"`([A-Za-z_][\w.]*)`", entry)
        modules = [ROOT / "src/rebend" / file for file in files]
        assert all(module.is_file() for module in modules), entry
        known = set().union(*map(defined, modules))
        parts = {word for name in names if not name.endswith(".py") for word in name.split(".")}
        assert not modules or parts <= known, f"{parts - known} in {files}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_keys_and_blocks_exist(row: list[str]) -> None:
    catalogue = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    blocks = {name for section in CATALOGUE for name in catalogue[section]}
    known = {key for section in CATALOGUE for kind in block_classes(section) for key in keys(kind)}
    known |= blocks | {*CATALOGUE, *keys(Grid), *keys(Study)}
    for code in re.findall(r"`([^`]+)`", row[2]):
        name = code.split(":")[0]
        assert name in known or (ROOT / name).exists(), f"no key or block '{name}'"
