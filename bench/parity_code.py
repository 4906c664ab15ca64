"""Pieces of a released repository, taken from the text of its files: nothing of it is imported, copied or kept.

Its scripts cannot be imported (they parse a command line, log in somewhere or load a model while they are imported),
so functions and classes are compiled one by one, and some statements from the middle of a script likewise. Each repair
that a piece needs to run is declared, and listed on the page.
"""

from __future__ import annotations

import ast
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPAIRS: list[str] = []  # what was repaired or replaced and why, in the order in which items needed it


class Released:
    """A released repository: a folder with its files, or a git directory without work tree, read at HEAD."""

    def __init__(self, folder: Path) -> None:
        """Raise `FileNotFoundError` if there is no such folder."""
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        self.folder = folder.resolve()
        self.texts: dict[str, str] = {}
        self.bare = (folder / "HEAD").is_file() and (folder / "objects").is_dir()

    def git(self, *command: str) -> str:
        """Return the output of a git command in the repository."""
        where = ["--git-dir", str(self.folder)] if self.bare else ["-C", str(self.folder)]
        return subprocess.run(["git", *where, *command], check=True, capture_output=True, text=True).stdout

    def commit(self) -> str:
        """Return the first seven digits of the commit; "unknown" for a folder that git does not know."""
        try:
            top = self.folder if self.bare else Path(self.git("rev-parse", "--show-toplevel").strip())
            return self.git("rev-parse", "HEAD")[:7] if top == self.folder else "unknown"
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    def source(self, file: str, repairs: Mapping[str, tuple[str, str]] | None = None) -> str:
        """Return the text of a file; `repairs` has a new text and the reason for each text that is replaced.

        Raises `ValueError` if a text to be replaced is not there: another version of the code.
        """
        if file not in self.texts:
            path = self.folder / file
            self.texts[file] = self.git("show", f"HEAD:{file}") if self.bare else path.read_text(encoding="utf-8")
        text = self.texts[file]
        for old, (new, reason) in (repairs or {}).items():
            if old not in text:
                raise ValueError(f"{file}: does not hold {old!r}; is it another version?")
            text = text.replace(old, new)
            _note(f"`{file}`: {reason}")
        return text

    def take(
        self,
        file: str,
        names: Sequence[str],
        given: Mapping[str, Any],
        repairs: Mapping[str, tuple[str, str]] | None = None,
    ) -> SimpleNamespace:
        """Return functions, classes and module constants of a file by name; `given` are the names that they use.

        A function inside another one is found, too. Annotations are not evaluated.
        """
        tree = ast.parse(self.source(file, repairs))
        space = dict(given)
        found = {name: node for node in reversed(list(ast.walk(tree))) for name in _defines(node) if name in names}
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{file}: does not define {', '.join(missing)}; is it another version?")
        for name in names:
            _execute(ast.Module([found[name]], []), file, space)  # type: ignore[list-item]
        return SimpleNamespace(**{name: space[name] for name in names})

    def run(self, file: str, first: str, last: str, given: Mapping[str, Any], *, whole: bool = True) -> dict[str, Any]:
        """Run the lines of a script from the one with text `first` to the next one with `last`; return all names.

        Without `whole` the last line itself is not run.
        """
        lines = self.source(file).splitlines()
        starts = [number for number, line in enumerate(lines) if first in line]
        ends = [number for number, line in enumerate(lines) if starts and number >= starts[0] and last in line]
        if not ends:
            raise ValueError(f"{file}: has no lines from {first!r} to {last!r}; is it another version?")
        space = dict(given)
        _execute(ast.parse(textwrap.dedent("\n".join(lines[starts[0] : ends[0] + whole]))), file, space)
        return space


def stand_in(what: str, why: str) -> None:
    """Declare that a name which the released code takes from elsewhere is replaced by a small one of ours."""
    _note(f"{what}: {why}")


def _note(sentence: str) -> None:
    if sentence not in REPAIRS:
        REPAIRS.append(sentence)


def _defines(node: ast.AST) -> list[str]:
    """Return the names that a definition or a plain assignment gives."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _execute(module: ast.Module, file: str, space: dict[str, Any]) -> None:
    # This file's own `from __future__ import annotations` holds for what it compiles.
    exec(compile(module, f"<released {file}>", "exec"), space)
