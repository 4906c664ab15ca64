"""Which room may import which: the table in CONTRIBUTING.md, compared with the imports of every module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "src/rebend"
SCRIPTS = sorted((ROOT / "workflow/scripts").rglob("*.py"))
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
MOST_FILES = 15  # of a package, beside its `__init__`
HEAVY = ("torch", "transformers", "peft", "pandas", "sklearn", "matplotlib", "nltk", "numba")
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \|$", re.MULTILINE)

Graph = Mapping[str, set[str]]


def table() -> dict[str, set[str]]:
    """Room → rooms that it may import, as CONTRIBUTING.md has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Who may import whom")[1].split("\n## ")[0]
    rows = {room: set(allowed.split(", ")) - {"nothing"} for room, allowed in ROW.findall(section)}
    return {room: allowed | ({"errors"} - {room}) for room, allowed in rows.items()}


def name_of(path: Path) -> str:
    """Return the dotted name of a module of the library; a package's is that of its `__init__`."""
    parts = ("rebend", *path.relative_to(LIBRARY).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def imported_modules(path: Path) -> set[str]:
    """Return the modules of the library that a file imports anywhere in it, also inside functions."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= inner & set(MODULES) or {node.module}
    return named & set(MODULES)


@cache
def imports() -> dict[str, set[str]]:
    return {name: imported_modules(path) for name, path in MODULES.items()}


def room(module: str) -> str:
    """Return the room of a module; "" for the library itself, which holds the version."""
    return [*module.split("."), ""][1]


def package(module: str) -> str:
    """Return the package in which a module lies."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def collapsed(depth: int) -> dict[str, set[str]]:
    """Return the imports between packages, each cut to `depth` parts of its name."""
    graph: dict[str, set[str]] = {}
    for module, others in imports().items():
        here = _cut(package(module), depth)
        graph.setdefault(here, set()).update(_cut(package(other), depth) for other in others)
    return {here: others - {here} for here, others in graph.items()}


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of names that reach each other (the strongly connected components above one name)."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {tuple(sorted(n for n in reached[name] if name in reached.get(n, ()))) for name in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [["b", "c"]]


def test_table_names_every_room() -> None:
    assert set(table()) == {room(name) for name in MODULES if room(name)}


def test_map_names_every_room_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/` \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert {name for name, _ in rows} | {"errors"} == set(table())
    files = [LIBRARY / name / file for name, first in rows for file in re.findall(r"`([\w/.]+)`", first)]
    assert not [str(file.relative_to(ROOT)) for file in files if not file.exists()]


def test_table_has_no_circle() -> None:
    assert not circles(table())


@pytest.mark.parametrize("name", sorted({room(name) for name in MODULES if room(name)}))
def test_room_imports_only_what_the_table_allows(name: str) -> None:
    allowed = {*table().get(name, set()), name, ""}
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        if room(module) == name
        for other in sorted(others)
        if room(other) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_import_each_other_in_no_circle() -> None:
    assert not circles(imports())


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_packages_import_each_other_in_no_circle(depth: int) -> None:
    """Also a package and a package inside it: one of them imports the other, never both."""
    assert not circles(collapsed(depth))


def test_scripts_import_only_the_job_of_pipeline() -> None:
    wrong = {
        f"{path.name} imports {module}"
        for path in SCRIPTS
        for module in imported_modules(path)
        if room(module) == "pipeline" and module != "rebend.pipeline.jobs.job"
    }
    assert not wrong


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_package_holds_few_files(folder: Path) -> None:
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES, files


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_init_holds_only_a_docstring(name: str) -> None:
    body = ast.parse(MODULES[name].read_text(encoding="utf-8")).body
    assert body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    more = [ast.unparse(node) for node in body[1:]]
    assert all(line.startswith("__version__ = ") for line in more) if name == "rebend" else not more


def test_only_pipeline_knows_snakemake_and_results() -> None:
    wrong = []
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if room(name) != "pipeline" and re.search(r"^\s*(from|import) snakemake", text, re.MULTILINE):
            wrong.append(f"{name} imports snakemake")
        if room(name) != "pipeline":
            wrong += [f"{name}: {line!r}" for line in strings_in_code(text) if "results/" in line]
    assert not wrong, "\n".join(wrong)


def test_report_imports_no_torch() -> None:
    wrong = [
        name
        for name, path in MODULES.items()
        if room(name) == "report" and re.search(r"^\s*(from|import) torch", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert not wrong


def strings_in_code(text: str) -> Iterator[str]:
    """Yield the strings of a module that are values: not docstrings, and not descriptions of fields."""
    tree = ast.parse(text)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "description":
            prose |= {id(inner) for inner in ast.walk(node.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def parsing_imports(files: Iterable[Path]) -> list[str]:
    """Return the import lines of the workflow files."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.findall(r"^(?:from|import) [^\n(]+(?:\([^)]*\))?", lines, re.MULTILINE)


def test_parsing_loads_nothing_heavy() -> None:
    """Every job of a cluster parses the workflow again."""
    lines = parsing_imports(RULES)
    assert any("rebend.pipeline.checks.workflow" in line for line in lines)
    code = "\n".join([*lines, "import sys", f"print(*[name for name in {HEAVY} if name in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
