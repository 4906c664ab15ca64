"""Python code that a model's repository brings: run only where the model's block says so, at a commit that was read.

A checkpoint folder whose code may be run has a file that says which commit it is of. Only `take_code` writes it: one
that a repository brings itself is left behind.
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
    """Whether loading this checkpoint folder may run the code in it."""
    return (Path(path) / CODE_FILE).is_file()


def take_code(source: Path, target: Path, hub: Mapping[str, Any]) -> None:
    """Copy the Python files beside a checkpoint, and note down what they are; `hub` has `repo` and `revision`.

    Raises `ModelError` if the configuration names code of another repository: no commit of that one is pinned.
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
    """Let a configuration name the code beside it, as `module.Class`, where it names its repository in front."""
    settings = read_json(file)
    named = settings.get("auto_map")
    if not isinstance(named, dict):
        return

    def own(value: Any) -> Any:
        if isinstance(value, list):
            return [own(one) for one in value]
        other, mark, name = str(value).rpartition("--")
        if mark and other != repo:
            raise ModelError(f"{file}: names code of '{other}', of which no commit is pinned; it is not run")
        return name if mark else value

    write_json(file, {**settings, "auto_map": {key: own(value) for key, value in named.items()}})
