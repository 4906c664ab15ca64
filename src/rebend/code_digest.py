"""Which code made a result: a digest that changes with a formula and not with a comment.

Snakemake notices an edited script but not an edited library. The digest covers the script and every
module of rebend that it reaches through imports, as syntax trees without docstrings, and the templates
that these name. It is a param of the rule, so a changed one re-runs the stage.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
# They decide what is asked for, how it is shown and how it is noted down, never what comes out; the
# settings themselves are params of their own.
_WITHOUT_EFFECT = (
    "rebend.config",
    "rebend.errors",
    "rebend.gpu_slots",
    "rebend.keys",
    "rebend.progress",
    "rebend.provenance",
    "rebend.warm",
)


def code_digest(script: str | Path) -> str:
    """Return 16 hex digits for a script and the library modules that it reaches."""
    digest = hashlib.sha256(_tree(Path(script)).encode())
    for module in sorted(reached_modules(script)):
        digest.update(f"{module}\n{_tree(_file_of(module))}".encode())
    return digest.hexdigest()[:16]


def reached_modules(script: str | Path) -> set[str]:
    """Return the names of the rebend modules that a script imports, directly or through others."""
    reached: set[str] = set()
    waiting = list(_imports(Path(script)))
    while waiting:
        module = waiting.pop()
        if module not in reached and not module.startswith(_WITHOUT_EFFECT):
            reached.add(module)
            waiting.extend(_imports(_file_of(module)))
    return reached


@cache
def _imports(file: Path) -> tuple[str, ...]:
    return tuple(sorted(set(_find_imports(_parsed(file)))))


@cache
def _parsed(file: Path) -> ast.Module:
    """The code without docstrings; kept, because parsing is what a digest costs."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            node.body = node.body[1:]
    return tree


def _find_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.startswith("rebend.") and _file_of(name).exists())


@cache
def _tree(file: Path) -> str:
    """The code and the templates that it names, as text."""
    tree = _parsed(file)
    return "".join([ast.dump(tree), *(path.read_text(encoding="utf-8") for path in _templates(tree))])


def _templates(tree: ast.AST) -> list[Path]:
    """Files of the package's templates that stand in the code by name."""
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    paths = [_PACKAGE / "templates" / name for name in sorted(names) if name.endswith(".jinja") and "/" not in name]
    return [path for path in paths if path.is_file()]


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _file_of(module: str) -> Path:
    parts = module.split(".")[1:]
    folder = _PACKAGE.joinpath(*parts)
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
