"""The code version of a stage: a digest that changes with a formula and not with a comment.

Snakemake detects an edited script, but not an edited library. The digest covers the script, the modules of the library
that it imports, directly or through others, and the data files that these modules name. Of the modules in
`rebend.config`, it covers only the functions and constants whose names are used, because the settings themselves are
params of the stage. The digest is a param too, so Snakemake runs a stage again if it changes.

Code that is chosen by a string (a method, a reader, a judge) is not imported by name. Therefore the rule names it as an
entry, "rebend.repbend.methods.dpo:Dpo". Names that are built at run time (`getattr(block, f"{x}_target")`) are not
detected.
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
    "rebend.pipeline",  # decides which jobs run, where and when, and records it
    "rebend.errors",  # messages for users
    "rebend.io.locks",  # which process may write
    "rebend.io.progress",  # progress bars
    "rebend.io.secrets",  # removal of keys from logs
)
_BY_DEFINITION = ("rebend.config",)  # most of its code describes and checks settings, which are params of the stage


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
    """Return the names of the modules that the code version covers as a whole.

    Raises `ValueError` for an entry that the library does not have.
    """
    return set(_Reach(_library(_PACKAGE), Path(script), entries).modules)


def reached_definitions(script: str | Path, *entries: str) -> set[str]:
    """Return the definitions in `rebend.config` that count, as "rebend.config.adapters:RepBendBlock.last_target".

    The name of a class stands for its first line: name, bases and decorators. Raises `ValueError` for an entry that the
    library does not have.
    """
    reach = _Reach(_library(_PACKAGE), Path(script), entries)
    return {f"{module}:{label}" for module, label in reach.definitions}


def sources() -> dict[str, bytes]:
    """Return the contents of the library's files, code and data, by path."""
    files = (path for path in sorted(_PACKAGE.rglob("*")) if path.suffix in (".py", *DATA_SUFFIXES))
    return {str(path): path.read_bytes() for path in files}


def texts_digest(scripts: Path) -> str:
    """Return a digest of the text of the library and of all scripts in the folder `scripts` and below it."""
    return sources_digest({**sources(), **{str(path): path.read_bytes() for path in sorted(scripts.rglob("*.py"))}})


def sources_digest(texts: Mapping[str, bytes]) -> str:
    """Return 16 hex digits for the names and contents of files, in their order; folders do not count."""
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
        """Whether the module can change a result; an `__init__.py` with only a docstring cannot."""
        is_package = self.file.name == "__init__.py"
        return not _is_in(self.name, _WITHOUT_EFFECT) and not (is_package and self.code.is_empty)

    def digest_of(self, code: Code) -> str:
        """Return the digest of code in this file and of the data files beside it that the code names."""
        paths = [self.file.parent / name for name in code.data_files]
        data = [path.read_bytes() for path in paths if path.is_file()]
        return "".join([code.digest, *(hashlib.sha256(raw).hexdigest() for raw in data)])


class _Library:
    """The modules below a folder; each is read at its first use."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._modules: dict[str, _Module | None] = {}
        self._scripts: dict[Path, _Module] = {}
        # one file per version of Python, as for compiled modules: syntax trees differ between versions
        self.parsed = ParsedFiles(package / "__pycache__" / f"parsed.{sys.implementation.cache_tag}.json")

    def module(self, name: str) -> _Module | None:
        """Return the module of this name, None if there is none."""
        if name not in self._modules:
            self._modules[name] = self._find(name)
        return self._modules[name]

    def script(self, path: Path) -> _Module:
        return self._scripts.setdefault(path, _Module("", path, self))

    def imported(self, code: Code) -> list[_Module]:
        """Return the modules that code imports and the packages that contain them, if they count."""
        names = {part for name in code.imports for part in _with_packages(name)}
        modules = [self.module(name) for name in sorted(names)]
        return [module for module in modules if module is not None and module.counts]

    def _find(self, name: str) -> _Module | None:
        place = self._package.joinpath(*name.split(".")[1:])
        files = [place / "__init__.py", place.parent / f"{place.name}.py"]
        file = next((file for file in files if file.is_file()), None)
        return _Module(name, file, self) if file else None


@cache
def _library(package: Path) -> _Library:
    return _Library(package)


class _Reach:
    """The code that a script and its entries reach: whole modules, and definitions in the settings' modules."""

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
        """Add modules and their imports; of settings' modules, only the imports of other settings' modules."""
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
        """Return the definitions whose name is used and that are not added yet."""
        return [
            (name, definition)
            for name, module in self.settings.items()
            for definition in module.definitions
            if definition.name in self._names and (name, definition.label) not in self.definitions
        ]

    def _entry(self, entry: str) -> tuple[str, str]:
        """Return module and attribute of an entry.

        Raises `ValueError` if either is missing: the digest would otherwise not cover the entry's code.
        """
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
    """Return `a`, `a.b` and `a.b.c` for `a.b.c`: an import runs the `__init__.py` of each package."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)
