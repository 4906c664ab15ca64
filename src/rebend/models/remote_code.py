"""Python code in a model's repository: run only with `trust_remote_code`, at a pinned commit.

A checkpoint folder whose code may be run has the file CODE_FILE with repository and commit. Only `take_code` writes it;
a file of this name in a repository is not copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebend.errors import ModelError
from rebend.io.checksums import file_digest
from rebend.io.files import read_json, write_json

CODE_FILE = "repository_code.json"


def runs_code(path: str | Path) -> bool:
    """Return whether loading this checkpoint folder may run the code in it."""
    return (Path(path) / CODE_FILE).is_file()


def take_code(source: Path, target: Path, hub: Mapping[str, Any]) -> None:
    """Copy the Python files of a checkpoint and write CODE_FILE; `hub` has `repo` and `revision`.

    Raises `ModelError` if the configuration names code of another repository, because its commit is not pinned.
    """
    files = sorted(source.glob("*.py"))
    for file in files:
        shutil.copyfile(file, target / file.name)
    for name in ("config.json", "tokenizer_config.json"):
        if (target / name).is_file():
            _keep_inside(target / name, hub["repo"])
    digests = {file.name: file_digest(file) for file in files}
    write_json(target / CODE_FILE, {"repo": hub["repo"], "revision": hub["revision"], "files": digests})


def _keep_inside(file: Path, repo: str) -> None:
    """Rewrite "repository--module.Class" in a configuration to "module.Class", the code beside it."""
    settings = read_json(file)
    auto_map = settings.get("auto_map")
    if not isinstance(auto_map, dict):
        return

    def local(value: Any) -> Any:
        if isinstance(value, list):
            return [local(entry) for entry in value]
        other, mark, name = str(value).rpartition("--")
        if mark and other != repo:
            raise ModelError(f"{file}: names code of '{other}', of which no commit is pinned; it is not run")
        return name if mark else value

    write_json(file, {**settings, "auto_map": {key: local(value) for key, value in auto_map.items()}})
