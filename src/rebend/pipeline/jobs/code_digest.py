"""Which code made a result: a digest that changes with a formula and not with a comment.

Snakemake notices an edited script but not an edited library. The digest covers the script and every
module of rebend that it reaches through imports, as syntax trees without docstrings, and the templates
that these name. It is a param of the rule, so a changed one re-runs the stage.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rebend.errors import DiskError
from rebend.io.files import write_text

_PACKAGE = Path(__file__).parents[2]
_PARSER = Path(__file__).read_bytes()  # what another version of this file made of a text does not count
_MOST_TEXTS = 2000
# They decide what is asked for, how it is shown and how it is noted down, never what comes out; the
# settings themselves are params of their own.
_WITHOUT_EFFECT = (
    "rebend.config",
    "rebend.errors",
    "rebend.pipeline.jobs.gpus",
    "rebend.io.secrets",
    "rebend.io.progress",
    "rebend.pipeline.jobs.job",
    "rebend.pipeline.jobs.warm_start",
)


class Text(NamedTuple):
    """What a digest needs of one file: the digest of its code, the names it imports, the templates it may name."""

    digest: str
    imports: list[str]
    templates: list[str]


def code_digest(script: str | Path) -> str:
    """Return 16 hex digits for a script and the library modules that it reaches."""
    digest = hashlib.sha256(_digest_of(Path(script)).encode())
    for module in sorted(reached_modules(script)):
        digest.update(f"{module}\n{_digest_of(_file_of(module))}".encode())
    _kept().save()
    return digest.hexdigest()[:16]


def reached_modules(script: str | Path) -> set[str]:
    """Return the names of the rebend modules that a script imports, directly or through others."""
    reached: set[str] = set()
    waiting = _imports(Path(script))
    while waiting:
        module = waiting.pop()
        if module not in reached and not module.startswith(_WITHOUT_EFFECT):
            reached.add(module)
            waiting.extend(_imports(_file_of(module)))
    return reached


class Kept:
    """What files were parsed to, by their contents; kept beside the files that Python itself keeps of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, Text] = {}
        self.is_saved = True
        with suppress(OSError, ValueError, TypeError):
            self.texts = {key: Text(*values) for key, values in json.loads(path.read_bytes()).items()}

    def text(self, raw: bytes) -> Text:
        """Return what a file with these contents is parsed to."""
        key = hashlib.sha256(_PARSER + raw).hexdigest()
        if key not in self.texts:
            self.texts[key] = _parse(raw)
            self.is_saved = False
        return self.texts[key]

    def save(self) -> None:
        """Write what is new; a folder that cannot be written to costs time only."""
        if not self.is_saved:
            newest = list(self.texts.items())[-_MOST_TEXTS:]
            with suppress(OSError, DiskError):
                write_text(self.path, json.dumps(dict(newest)))
            self.is_saved = True


@cache
def _kept() -> Kept:
    return Kept(_PACKAGE / "__pycache__" / f"texts.{sys.implementation.cache_tag}.json")


@cache
def _text(file: Path) -> Text:
    """Parsing is what a digest costs, so what came of it is kept by the contents of the file."""
    return _kept().text(file.read_bytes())


def _parse(raw: bytes) -> Text:
    """The code without docstrings, its imports, and the words in it that look like names of templates."""
    tree = ast.parse(raw)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            node.body = node.body[1:]
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    templates = sorted(word for word in words if word.endswith(".jinja") and "/" not in word)
    return Text(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(set(_find_imports(tree))), templates)


def _find_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.startswith("rebend."))


def _imports(file: Path) -> list[str]:
    """The modules of the library that a file imports."""
    return [name for name in _text(file).imports if _is_module(name)]


@cache
def _is_module(name: str) -> bool:
    return _file_of(name).exists()


@cache
def _digest_of(file: Path) -> str:
    """Digest of the code and of the templates that it names."""
    text = _text(file)
    paths = [file.parent / name for name in text.templates]
    return "".join([text.digest, *(path.read_text(encoding="utf-8") for path in paths if path.is_file())])


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _file_of(module: str) -> Path:
    parts = module.split(".")[1:]
    folder = _PACKAGE.joinpath(*parts)
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
