"""Which code made a result: a digest that changes with a formula and not with a comment.

Snakemake notices an edited script but not an edited library. The digest covers the script, the modules of the library
that it imports, directly or through others, and the data files that these name. Of the settings' modules only the
functions and constants whose names are used count: the settings themselves are params of the stage. It is a param,
too, so a changed one makes Snakemake run the stage again.

What is chosen by a string (a method, a reader, a judge) is no import. The rule names it, as an entry
"rebend.repbend.methods.dpo:Dpo". A name that code puts together while it runs (`getattr(block, f"{x}_target")`) is not
seen.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path

from rebend.pipeline.jobs.parsed_source import DATA_SUFFIXES, ROOT, Code, Definition, ParsedFiles

_PACKAGE = Path(__file__).parents[2]
_WITHOUT_EFFECT = (
    "rebend.pipeline",  # decides which jobs run, where and when, and writes that down
    "rebend.errors",  # words for people
    "rebend.io.locks",  # who may write now
    "rebend.io.progress",  # how far a job is
    "rebend.io.secrets",  # keys, and how they stay out of logs
)
_BY_DEFINITION = ("rebend.config",)  # most of it describes and checks settings, which are params of the stage


def code_version(script: str | Path, *entries: str) -> str:
    """Return 16 hex digits for a script, the library that it reaches, and the entries ("module:attribute").

    Raises `ValueError` for an entry that the library does not have.
    """
    reach = _Reach(_library(_PACKAGE), Path(script), entries)
    digest = hashlib.sha256("\n".join(["", *sorted(entries), reach.script.digest]).encode())
    for name, module in sorted(reach.modules.items()):
        digest.update(f"\n{name}\n{module.digest}".encode())
    for (name, label), definitions in sorted(reach.definitions.items()):
        module = reach.settings[name]
        parts = [module.digest_of(definition.code) for definition in definitions]
        digest.update("\n".join(["", f"{name}:{label}", *parts]).encode())
    reach.library.parsed.save()
    return digest.hexdigest()[:16]


def reached_modules(script: str | Path, *entries: str) -> set[str]:
    """Return the names of the modules that count as a whole.

    Raises `ValueError` for an entry that the library does not have.
    """
    return set(_Reach(_library(_PACKAGE), Path(script), entries).modules)


def reached_definitions(script: str | Path, *entries: str) -> set[str]:
    """Return what counts of the settings' modules, as "rebend.config.adapters:RepBendBlock.last_target".

    A class itself stands for its first line: name, bases and decorators. Raises `ValueError` for an entry that the
    library does not have.
    """
    reach = _Reach(_library(_PACKAGE), Path(script), entries)
    return {f"{module}:{label}" for module, label in reach.definitions}


def sources() -> dict[str, bytes]:
    """Return the contents of the library's files, code and data, by path."""
    files = (path for path in sorted(_PACKAGE.rglob("*")) if path.suffix in (".py", *DATA_SUFFIXES))
    return {str(path): path.read_bytes() for path in files}


def texts_digest(scripts: Path) -> str:
    """Return a digest of the text of the library and of the stages' scripts, at any depth in the folder `scripts`."""
    return sources_digest({**sources(), **{str(path): path.read_bytes() for path in sorted(scripts.rglob("*.py"))}})


def sources_digest(texts: Mapping[str, bytes]) -> str:
    """Return 16 hex digits for files' contents, in their order and with their names, wherever their folder is."""
    digest = hashlib.sha256()
    for path, raw in texts.items():
        digest.update(f"{Path(path).name}\n{len(raw)}\n".encode())
        digest.update(raw)
    return digest.hexdigest()[:16]


class _Module:
    """A file of the library, or a script; it is read and parsed once."""

    def __init__(self, name: str, file: Path, library: _Library) -> None:
        self.name, self.file, self._library = name, file, library

    @cached_property
    def raw(self) -> bytes:
        return self.file.read_bytes()

    @cached_property
    def code(self) -> Code:
        return self._library.parsed.code(self.raw)

    @cached_property
    def definitions(self) -> list[Definition]:
        return self._library.parsed.definitions(self.raw)

    @cached_property
    def digest(self) -> str:
        return self.digest_of(self.code)

    @cached_property
    def imports(self) -> list[_Module]:
        return self._library.imported(self.code)

    @cached_property
    def counts(self) -> bool:
        """Whether there is code in it that may change a result: most `__init__.py` hold a docstring alone."""
        is_package = self.file.name == "__init__.py"
        return not _is_in(self.name, _WITHOUT_EFFECT) and not (is_package and self.code.is_empty)

    def digest_of(self, code: Code) -> str:
        """Digest of code in this file and of the data files beside it that the code names."""
        paths = [self.file.parent / name for name in code.data_files]
        data = [path.read_bytes() for path in paths if path.is_file()]
        return "".join([code.digest, *(hashlib.sha256(raw).hexdigest() for raw in data)])


class _Library:
    """The modules below a folder, read when they are asked for."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._modules: dict[str, _Module | None] = {}
        self._scripts: dict[Path, _Module] = {}
        # beside the files that Python itself keeps of the modules; trees differ between versions of Python
        self.parsed = ParsedFiles(package / "__pycache__" / f"parsed.{sys.implementation.cache_tag}.json")

    def module(self, name: str) -> _Module | None:
        """The module of this name, None if there is none."""
        if name not in self._modules:
            self._modules[name] = self._find(name)
        return self._modules[name]

    def script(self, path: Path) -> _Module:
        return self._scripts.setdefault(path, _Module("", path, self))

    def imported(self, code: Code) -> list[_Module]:
        """The modules that code imports, and the packages around them, as far as they count."""
        names = {part for name in code.imports for part in _with_packages(name)}
        found = [self.module(name) for name in sorted(names)]
        return [module for module in found if module is not None and module.counts]

    def _find(self, name: str) -> _Module | None:
        place = self._package.joinpath(*name.split(".")[1:])
        files = [place / "__init__.py", place.parent / f"{place.name}.py"]
        file = next((file for file in files if file.is_file()), None)
        return _Module(name, file, self) if file else None


@cache
def _library(package: Path) -> _Library:
    return _Library(package)


class _Reach:
    """What a script and its entries reach: whole modules, and definitions in the settings' modules."""

    def __init__(self, library: _Library, script: Path, entries: Iterable[str]) -> None:
        self.library, self.script = library, library.script(script)
        self.modules: dict[str, _Module] = {}
        self.settings: dict[str, _Module] = {}
        self.definitions: dict[tuple[str, str], list[Definition]] = {}
        self._names: set[str] = set(self.script.code.names)
        self._enter(self.script.imports)
        for entry in entries:
            module, attribute = self._entry(entry)
            self._names.add(attribute)
            self._enter(self.library.imported(Code("", [module], [], [])))
        while fresh := self._definitions_in_use():
            for module_name, definition in fresh:
                self.definitions.setdefault((module_name, definition.label), []).append(definition)
                self._names.update(definition.code.names)
                self._enter(self.library.imported(definition.code))

    def _enter(self, modules: Iterable[_Module]) -> None:
        """Count modules, and what they import; settings' modules lead to other settings' modules only."""
        waiting = list(modules)
        while waiting:
            module = waiting.pop()
            if module.name in self.modules or module.name in self.settings:
                continue
            if _is_in(module.name, _BY_DEFINITION):
                self.settings[module.name] = module
                waiting += [other for other in module.imports if _is_in(other.name, _BY_DEFINITION)]
            else:
                self.modules[module.name] = module
                self._names.update(module.code.names)
                waiting += module.imports

    def _definitions_in_use(self) -> list[tuple[str, Definition]]:
        """Definitions that are not counted yet and whose name is used."""
        return [
            (name, definition)
            for name, module in self.settings.items()
            for definition in module.definitions
            if definition.name in self._names and (name, definition.label) not in self.definitions
        ]

    def _entry(self, entry: str) -> tuple[str, str]:
        """Module and attribute of an entry; a wrong one would silently leave its code out of the digest."""
        name, _, attribute = entry.partition(":")
        module = self.library.module(name) if name.startswith(f"{ROOT}.") else None
        if module is None:
            raise ValueError(f"entry '{entry}': the library has no module '{name}'")
        if _is_in(name, _WITHOUT_EFFECT):
            raise ValueError(f"entry '{entry}': code of '{name}' counts for no result, so it can't be an entry")
        if "." in attribute or attribute not in {definition.label for definition in module.definitions}:
            raise ValueError(f"entry '{entry}': '{name}' defines no '{attribute}' at its top level")
        return name, attribute


def _with_packages(name: str) -> list[str]:
    """`a.b.c` with `a` and `a.b`, whose `__init__.py` run first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)
