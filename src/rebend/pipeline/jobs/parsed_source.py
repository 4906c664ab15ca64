"""Read code and definitions from the syntax tree of a source file, without importing or running it.

Docstrings and blocks under `if TYPE_CHECKING:` are removed first, because they change no result.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rebend.errors import DiskError
from rebend.io.files import write_text

ROOT = "rebend"
DATA_SUFFIXES = (".jinja", ".txt")

_THIS_FILE = Path(__file__).read_bytes()  # part of each cache key: another version of this module may parse differently
_MOST_KEPT = 1000  # parsed files; the library has about 200
# These decorated functions check or serialize settings, which are params. Only Pydantic calls them, not by name.
_VALIDATORS = {"field_validator", "model_validator", "field_serializer", "model_serializer"}
_BY_NAME = {"getattr", "hasattr", "attrgetter", "methodcaller"}
_CLASS_NAME = re.compile(r"_*[A-Z]\w*[a-z]\w*")
_ENTRY = re.compile(rf"{ROOT}(\.\w+)+:\w+")


class Code(NamedTuple):
    """A piece of code: its digest, the modules it may import, the names it uses, the data files it may name."""

    digest: str
    imports: list[str]
    names: list[str]
    data_files: list[str]
    is_empty: bool = False


class Definition(NamedTuple):
    """A function, a constant or the first line of a class, and the name that other code uses for it.

    `label` is its qualified name, as in `Class.method`. The `name` of a registry is empty, so no use of it counts.
    """

    label: str
    name: str
    code: Code


class ParsedFiles:
    """Cache of parsed files by their contents, stored in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, list] = {}
        self._is_saved = True
        with suppress(OSError):
            check, _, content = path.read_bytes().partition(b"\n")
            if check.decode(errors="replace") == hashlib.sha256(content).hexdigest():
                self._values = json.loads(content)

    def code(self, raw: bytes) -> Code:
        """Return the code of a file with these contents."""
        return Code(*self._value("code", raw, parse_code))

    def definitions(self, raw: bytes) -> list[Definition]:
        """Return the definitions in a file with these contents."""
        values = self._value("definitions", raw, parse_definitions)
        return [Definition(label, name, Code(*code)) for label, name, code in values]

    def save(self) -> None:
        """Write new entries to the file. If that fails, files are parsed again next time."""
        if self._is_saved:
            return
        content = json.dumps(dict(list(self._values.items())[-_MOST_KEPT:]))
        with suppress(OSError, DiskError):
            write_text(self.path, f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")
        self._is_saved = True

    def _value(self, kind: str, raw: bytes, parse: Callable[[bytes], Sequence]) -> Sequence:
        key = hashlib.sha256(b"\n".join([_THIS_FILE, kind.encode(), raw])).hexdigest()
        if key not in self._values:
            self._is_saved = False
            self._values[key] = list(parse(raw))
        self._values[key] = self._values.pop(key)  # `save` keeps the entries that were used last
        return self._values[key]


def parse_code(raw: bytes) -> Code:
    """Return the code of a file."""
    tree = _tree(raw)
    return _code(tree, _imported(tree))._replace(is_empty=all(map(_does_nothing, tree.body)))


def parse_definitions(raw: bytes) -> list[Definition]:
    """Return the functions, methods and constants of a file.

    Fields and validators of settings classes are left out. An import at the top of the file counts for the definitions
    that use its name.
    """
    tree = _tree(raw)
    imports = _imported(tree)
    return [Definition(label, name, _code(node, imports)) for label, name, node in _defined_in_module(tree)]


class _Cleaned(ast.NodeTransformer):
    """Removes docstrings and other string statements, and the code for type checkers."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if _last_name(node.test) == "TYPE_CHECKING" else node


def _tree(raw: bytes) -> ast.Module:
    tree = _Cleaned().visit(ast.parse(raw))
    assert isinstance(tree, ast.Module)
    return tree


class _Import(NamedTuple):
    """One name of an import statement: the name it binds, its original name, and the modules that it may load."""

    bound: str
    original: str
    modules: list[str]


def _imported(tree: ast.AST) -> list[_Import]:
    """Return the imports of library modules in a tree; `a.b` may be a module or a name in the module `a`."""
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_in_library(node.module or ""):
            imports += [
                _Import(alias.asname or alias.name, alias.name, [f"{node.module}", f"{node.module}.{alias.name}"])
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            aliases = [alias for alias in node.names if _is_in_library(alias.name)]
            imports += [_Import(alias.asname or ROOT, alias.name.split(".")[-1], [alias.name]) for alias in aliases]
    return imports


def _is_in_library(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


def _code(node: ast.AST, file_imports: Iterable[_Import]) -> Code:
    """Return a piece of code with the imports inside it, and the imports of its file whose names it uses."""
    names = set(_names(node))
    imports = [*_imported(node), *(item for item in file_imports if item.bound in names)]
    names |= {item.original for item in imports}
    modules = {module for item in imports for module in item.modules}
    texts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    files = [text for text in texts if text.endswith(DATA_SUFFIXES) and "/" not in text]
    return Code(hashlib.sha256(ast.dump(node).encode()).hexdigest(), sorted(modules), sorted(names), sorted(files))


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield names and attributes that code reads, also through `getattr` and in patterns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.MatchClass):
            yield from node.kwd_attrs
        elif isinstance(node, ast.Call) and _last_name(node.func) in _BY_NAME:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield from argument.value.split(".")  # attrgetter follows dots


def _last_name(node: ast.AST) -> str:
    """Return the last name of an expression: `x` for `x`, `a.x`, `a.x(1)` and `a.x[1]`."""
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


_Statements = Iterator[tuple[str, str, ast.stmt]]  # label, name, statement


def _defined_in_module(tree: ast.Module) -> _Statements:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _defined_in_class(node, "")
        else:
            is_registry = isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_registry(node.value)
            for name in _bound(node):
                yield name, "" if is_registry else name, _without_annotation(node)


def _defined_in_class(class_: ast.ClassDef, outside: str) -> _Statements:
    """Yield the first line of a class, and the statements of its body that count."""
    label = f"{outside}{class_.name}"
    first_line = copy.copy(class_)
    first_line.body = []
    yield label, class_.name, first_line
    for node in class_.body:
        if isinstance(node, ast.ClassDef):
            yield from _defined_in_class(node, f"{label}.")
        elif not _is_validator(node) and not _is_field(node, class_):
            for name in _bound(node):
                is_special = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _is_dunder(name)
                yield f"{label}.{name}", class_.name if is_special else name, _without_annotation(node)


def _is_validator(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any(_last_name(item) in _VALIDATORS for item in node.decorator_list)


def _is_field(node: ast.stmt, class_: ast.ClassDef) -> bool:
    """Return whether a statement is a setting. Fields of named tuples and dataclasses are not: no param holds them."""
    if not isinstance(node, ast.AnnAssign) or re.search(r"\b(ClassVar|Final)\b", ast.unparse(node.annotation)):
        return False
    return not {"NamedTuple", "dataclass"} & {_last_name(item) for item in [*class_.bases, *class_.decorator_list]}


def _is_registry(value: ast.expr | None) -> bool:
    """Return whether a value is a dict of classes, of their import paths, or of such dicts."""
    return isinstance(value, ast.Dict) and bool(value.values) and all(map(_is_registered, value.values))


def _is_registered(value: ast.expr) -> bool:
    if isinstance(value, ast.Call) and _last_name(value.func) == "Method":
        return all(map(_is_registered, value.args))
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str) and bool(_ENTRY.fullmatch(value.value))
    is_name = isinstance(value, (ast.Name, ast.Attribute))
    return _is_registry(value) or (is_name and bool(_CLASS_NAME.fullmatch(_last_name(value))))


def _bound(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines or changes; of a condition or a loop, also the names inside it."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)) or (isinstance(node, ast.AnnAssign) and not node.value):
        return []
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)):
        return sorted(set(_changed(node)))
    inside = (part for part in ast.walk(node) if isinstance(part, ast.stmt) and part is not node)
    stored = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return sorted(stored.union(*map(_bound, inside)))


def _changed(node: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr) -> Iterator[str]:
    """Yield `x` for `x = 1`, `x[1] = 2`, `x.a = 2` and `x.append(2)`."""
    waiting = list(node.targets) if isinstance(node, ast.Assign) else []
    waiting += [node.value] if isinstance(node, ast.Expr) else []
    waiting += [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else []
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, (ast.Tuple, ast.List)):
            waiting += part.elts
        elif isinstance(part, (ast.Attribute, ast.Subscript, ast.Starred)):
            waiting.append(part.value)
        elif isinstance(part, ast.Call):
            waiting.append(part.func)


def _without_annotation(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.AnnAssign) and node.value:
        return ast.Assign(targets=[node.target], value=node.value)
    return node


def _does_nothing(node: ast.stmt) -> bool:
    """Return whether a statement has no effect on results: `from __future__ import …`, `__version__ = …`."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, (ast.Assign, ast.AnnAssign)) and all(map(_is_dunder, _bound(node)))


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
