"""Messages for a job that has no memory left: killed by the system, or with an error of an allocation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from rebend.errors import DataError, RebendError
from rebend.io.checksums import bytes_digest, json_digest
from rebend.io.files import read_json, write_json
from rebend.pipeline.jobs.memory_keys import KEYS, NAMED, PLACES, Key
from rebend.pipeline.jobs.supervised import End

_ERRORS = ("can't allocate memory", "out of memory")  # torch: of a CPU; of CUDA
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of control groups, versions 2 and 1
_GROUPS = Path("/sys/fs/cgroup")


class Kills:
    """The kills of a job with its present settings, in the file `file` beside its progress."""

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file = file
        self.settings = json_digest(settings)

    def count(self) -> int:
        """Return the number of kills with these settings."""
        return int(self._read().get("kills", 0))

    def peak_mib(self) -> float:
        """Return the peak memory of the last killed process, MiB."""
        return float(self._read().get("peak_mib", 0.0))

    def add(self, end: End) -> int:
        """Count one more kill, and return the number."""
        kills = self.count() + 1
        write_json(self.file, {"settings": self.settings, "kills": kills, "peak_mib": round(end.peak_mib, 1)})
        return kills

    def clear(self) -> None:
        """Forget the kills: the job has finished."""
        self.file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        with suppress(DataError, OSError):
            facts = read_json(self.file) if self.file.is_file() else {}
            return dict(facts) if facts.get("settings") == self.settings else {}
        return {}


def kills_of(snakemake: Any) -> Kills:
    """Return the kills of a job; `snakemake` is Snakemake's object in its script."""
    name = f"{bytes_digest(snakemake.output.record.encode())[:16]}.killed.json"
    return Kills(Path(snakemake.params.progress) / snakemake.rule / name, snakemake.params.settings)


def report_kill(snakemake: Any, end: End) -> None:
    """Write to the log of a job that its process was killed, most likely for memory; else do nothing."""
    if not end.is_killed:
        return
    log = Path(snakemake.log[0])
    message = killed_message(snakemake.rule, end, kills_of(snakemake).add(end), _remedies_of(snakemake))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{message}\n")


def error_advice(snakemake: Any, error: BaseException) -> str:
    """Return the lines that follow an error in the log of a job: "" unless memory was not enough."""
    if not is_out_of_memory(error):
        return ""
    return f"{snakemake.rule}: memory ran out; {machine_memory()}\n{_remedies_of(snakemake)}\n"


def _remedies_of(snakemake: Any) -> str:
    return remedies(snakemake.rule, snakemake.params.settings, dict(snakemake.wildcards.items()))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was not enough, on a CPU or on a GPU; torch is not imported for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    return isinstance(error, RuntimeError | RebendError) and any(text in str(error) for text in _ERRORS)


def killed_message(stage: str, end: End, kills: int, remedies: str) -> str:
    """Return the message for a job whose process was killed for the `kills`-th time, several lines."""
    lines = [
        f"{stage}: its process was killed (SIGKILL, exit status 137) after {end.seconds:.0f} s. {_cause(end)}",
        f"{stage}: peak memory of the process {_gigabytes(end.peak_mib)}; {machine_memory()}",
        remedies,
    ]
    if kills > 1:
        lines.append(
            f"{stage}: this is kill number {kills} with these settings. The job continues from its progress and does "
            "the same step again: if memory was the cause, it will be killed again without a change"
        )
    return "\n".join(lines)


def earlier_message(stage: str, kills: Kills) -> str | None:
    """Return the line that a job writes first if it was killed before; None if it was not."""
    count = kills.count()
    if not count:
        return None
    times = "once" if count == 1 else f"{count} times"
    return (
        f"{stage}: was killed {times} with these settings before, the last time with a peak of "
        f"{_gigabytes(kills.peak_mib())}, by lack of memory or by somebody"
    )


def remedies(stage: str, settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a line with the keys that lower the peak memory of a stage, and their present values.

    `names` are the names of the job's blocks by wildcard.
    """
    keys = "; ".join(
        _described(key, settings, _name_of(stage, key, settings, names))
        for key in KEYS.get(stage, ())
        if _is_there(key, settings)
    )
    lowered = f"keys that lower its peak memory: {keys}. Also" if keys else "no key lowers its peak memory, but"
    return (
        f"{stage}: {lowered} fewer jobs at the same time (--cores, make's CORES) leave more memory for each; on a "
        "cluster, `resources: {mem_mb: …}` of the block asks for more"
    )


def machine_memory() -> str:
    """Return the memory of this machine and, if it is smaller, the limit of this process's group, as text."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    limits = [limit for limit in _group_limits() if limit < total]
    group = f", of which this job may use {_gigabytes(min(limits))}" if limits else ""
    return f"this machine has {_gigabytes(total)}{group}"


def _cause(end: End) -> str:
    if end.memory_kills:
        return "The system killed it because memory ran out."
    if end.memory_kills == 0:
        return (
            "The system has counted no kill for memory in this time: most likely a user or a scheduler killed it "
            "(a scheduler does so for memory, too)."
        )
    return "Most likely the system killed it because memory ran out."


def _gigabytes(mib: float) -> str:
    return f"{mib * 2**20 / 1e9:.2g} GB" if mib * 2**20 < 1e10 else f"{mib * 2**20 / 1e9:.1f} GB"


def _group_limits() -> Iterator[float]:
    """Yield the limits of the group of this process, MiB."""
    groups = [_GROUPS]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                groups.append(_GROUPS / controllers / path.lstrip("/"))
    for file in (group / name for group in groups for name in (*_LIMITS, "memory.limit_in_bytes")):
        with suppress(OSError, ValueError):
            yield int(file.read_text(encoding="utf-8")) / 2**20  # "max" is no number


def _described(key: Key, settings: Mapping[str, Any], name: str) -> str:
    value = _value(key, settings)
    return f"{key.section}.{name}.{key.path} ({key.lower}; now {'absent' if value is None else value})"


def _name_of(stage: str, key: Key, settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the name of a key's block: the wildcard, or what the settings of the stage name."""
    path = NAMED.get((stage, key.section))
    if path is None:
        return names.get(PLACES[key.section][1], "<name>")
    return str(reduce(lambda value, part: value[part], path.split("."), settings))


def _is_there(key: Key, settings: Mapping[str, Any]) -> bool:
    try:
        _value(key, settings)
    except (KeyError, TypeError):
        return False
    return True


def _value(key: Key, settings: Mapping[str, Any]) -> Any:
    """Return the present value of a key. Raises KeyError or TypeError if the block has no such key."""
    place = PLACES[key.section][0]
    value: Any = settings.get(place, settings) if place else settings
    for part in key.path.split("."):
        if part not in ("tiny", "trained"):
            value = value[part]
        elif settings.get("kind", part) != part:  # a stage that trains has the keys of one of them alone
            raise KeyError(key.path)
    return value
