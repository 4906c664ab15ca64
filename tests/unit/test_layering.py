"""The imports of every module are compared with the table in CONTRIBUTING.md."""

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
MAX_FILES = 15  # of a package, without its `__init__`
HEAVY = ("torch", "transformers", "peft", "pandas", "sklearn", "matplotlib", "nltk", "numba")
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \|$", re.MULTILINE)

Graph = Mapping[str, set[str]]


def table() -> dict[str, set[str]]:
    """Return room → rooms that it may import, from CONTRIBUTING.md."""
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
    """Return the modules of the library that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & set(MODULES) or {node.module}
    return names & set(MODULES)


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
        importer = _cut(package(module), depth)
        graph.setdefault(importer, set()).update(_cut(package(other), depth) for other in others)
    return {importer: others - {importer} for importer, others in graph.items()}


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def cycles(graph: Graph) -> list[list[str]]:
    """Return the groups of names that reach each other: strongly connected components of more than one name."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {tuple(sorted(n for n in reached[name] if name in reached.get(n, ()))) for name in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def _reached(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def test_cycles_are_detected() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert cycles(graph) == [["b", "c"]]


def test_table_names_every_room() -> None:
    assert set(table()) == {room(name) for name in MODULES if room(name)}


def test_map_names_every_room_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/` \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert {name for name, _ in rows} | {"errors"} == set(table())
    files = [LIBRARY / name / file for name, first in rows for file in re.findall(r"`([\w/.]+)`", first)]
    assert not [str(file.relative_to(ROOT)) for file in files if not file.exists()]


def test_table_has_no_cycle() -> None:
    assert not cycles(table())


@pytest.mark.parametrize("name", sorted({room(name) for name in MODULES if room(name)}))
def test_room_imports_only_what_the_table_allows(name: str) -> None:
    allowed = {*table().get(name, set()), name, ""}
    mistakes = [
        f"{module} imports {other}"
        for module, others in imports().items()
        if room(module) == name
        for other in sorted(others)
        if room(other) not in allowed
    ]
    assert not mistakes, "\n".join(mistakes)


def test_imports_of_modules_have_no_cycle() -> None:
    assert not cycles(imports())


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_imports_of_packages_have_no_cycle(depth: int) -> None:
    """A package and a package inside it must not import each other either."""
    assert not cycles(collapsed(depth))


def test_scripts_import_only_job_from_pipeline() -> None:
    mistakes = {
        f"{path.name} imports {module}"
        for path in SCRIPTS
        for module in imported_modules(path)
        if room(module) == "pipeline" and module != "rebend.pipeline.jobs.job"
    }
    assert not mistakes


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_package_holds_few_files(folder: Path) -> None:
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MAX_FILES, files


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_init_holds_only_a_docstring(name: str) -> None:
    body = ast.parse(MODULES[name].read_text(encoding="utf-8")).body
    assert body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    more = [ast.unparse(node) for node in body[1:]]
    assert all(line.startswith("__version__ = ") for line in more) if name == "rebend" else not more


def test_only_pipeline_uses_snakemake_and_paths_of_results() -> None:
    mistakes = []
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if room(name) != "pipeline" and re.search(r"^\s*(from|import) snakemake", text, re.MULTILINE):
            mistakes.append(f"{name} imports snakemake")
        if room(name) != "pipeline":
            mistakes += [f"{name}: {line!r}" for line in strings_in_code(text) if "results/" in line]
    assert not mistakes, "\n".join(mistakes)


def test_report_imports_no_torch() -> None:
    mistakes = [
        name
        for name, path in MODULES.items()
        if room(name) == "report" and re.search(r"^\s*(from|import) torch", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert not mistakes


def strings_in_code(text: str) -> Iterator[str]:
    """Yield the strings of a module that are values: not docstrings, and not descriptions of fields."""
    tree = ast.parse(text)
    excluded = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "description":
            excluded |= {id(inner) for inner in ast.walk(node.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in excluded:
            yield node.value


def parsing_imports(files: Iterable[Path]) -> list[str]:
    """Return the import lines of the workflow files."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.findall(r"^(?:from|import) [^\n(]+(?:\([^)]*\))?", lines, re.MULTILINE)


def test_parsing_imports_no_heavy_package() -> None:
    """Every job of a cluster parses the workflow again."""
    lines = parsing_imports(RULES)
    assert any("rebend.pipeline.checks.workflow" in line for line in lines)
    code = "\n".join([*lines, "import sys", f"print(*[name for name in {HEAVY} if name in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
