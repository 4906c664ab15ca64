"""Common parts of all rules: params of the stage, log, benchmark, record, resources and wildcard constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rebend.config.base import Resources
from rebend.config.load import Config
from rebend.pipeline.graph import paths
from rebend.pipeline.jobs.code_version import code_version, texts_digest

Entries = Callable[[Any], Sequence[str]]

_MEM_MB = 4000  # without an estimate


class Stages:
    """Params of the rules; the script of a rule is `<scripts>/<room>/<rule>.py`."""

    def __init__(self, scripts: Path) -> None:
        self.scripts = {path.stem: path for path in sorted(scripts.glob("*/*.py"))}
        self.texts = texts_digest(scripts)  # before the code versions: see `planned_version.write_plan`
        self._version = cache(self._code_version)

    def __call__(self, rule: str, settings: Any, entries: Entries | None = None, **params: Any) -> dict[str, Any]:
        """Return the params of a rule.

        `settings` is a dict, or a function of the wildcards that returns one. `entries` is a function of the wildcards
        that returns the import paths of the chosen methods ("module:attribute"): the code version covers them and no
        other method. With `network=True` the stage may use the network; with `private=True` only the owner can read its
        files and their folders, with `private="files"` its files. Raises KeyError if there is no script of this name.
        """
        common = {"settings": settings, "progress": paths.PROGRESS, **params}
        if entries is None:
            return {**common, "code": self._version(rule)}
        return {**common, "code": lambda wildcards: self._version(rule, *entries(wildcards)), "entries": entries}

    def _code_version(self, rule: str, *entries: str) -> str:
        return code_version(self.scripts[rule], *entries)


def log_of(rule: str, *wildcards: str) -> str:
    """Return the path of a rule's log."""
    return f"{paths.ROOT}/logs/{'/'.join((rule, *wildcards))}.log"


def benchmark_of(rule: str, *wildcards: str) -> str:
    """Return the path of a rule's benchmark file."""
    return f"{paths.ROOT}/benchmarks/{'/'.join((rule, *wildcards))}.tsv"


def with_record(**outputs: str) -> dict[str, str]:
    """Return the outputs of a rule, and the record beside the first one."""
    return {**outputs, "record": paths.record(str(next(iter(outputs.values()))))}


def resources(
    resources_of: Callable[[Any], Resources], estimate: Callable[[str, Any, int], int] | None = None
) -> dict[str, Callable[..., int]]:
    """Return the resources of a rule as functions of its wildcards; memory and time are proportional to the attempt.

    `estimate` returns the memory of a job in MB, for a block that sets none, from rule, wildcards and number of GPUs.
    """

    def mem_mb(wildcards: Any, attempt: int, rulename: str = "") -> int:
        given = resources_of(wildcards)
        if given.mem_mb is not None:
            return given.mem_mb * attempt
        return (estimate(rulename, wildcards, given.gpu) if estimate else _MEM_MB) * attempt

    return {
        "gpu": lambda wildcards: resources_of(wildcards).gpu,
        "mem_mb": mem_mb,
        "runtime": lambda wildcards, attempt: resources_of(wildcards).runtime * attempt,
    }


def one_of(names: Iterable[str]) -> str:
    """Return a wildcard constraint that matches exactly these names (nothing if there are none)."""
    return "|".join(sorted(name.replace("+", r"\+") for name in names)) or "(?!)"


_SECTIONS = {
    "base": "models",
    "adapter": "adapters",
    "dataset": "datasets",
    "reward": "rewards",
    "encoder": "encoders",
    "activations": "activations",
    "value_model": "value_models",
    "direction": "directions",
    "control": "controls",
    "judge": "judges",
    "attack": "attacks",
    "safety_judge": "safety_judges",
    "capability": "capabilities",
}


def wildcard_patterns(config: Config) -> dict[str, str]:
    """Return wildcard → regular expression of its values: the names of a section of the catalogue."""
    names = {wildcard: one_of(config[section]) for wildcard, section in _SECTIONS.items()}
    model = r"[a-z0-9_]+(\+[a-z0-9_]+)?"
    answers = rf"responses/{model}/[a-z0-9_]+/[a-z0-9_]+|completions/{model}/[a-z0-9_]+/[a-z0-9_]+/[a-z0-9_]+"
    return {**names, "model": model, "answers": answers, "study": r"[a-z0-9_]+"}
