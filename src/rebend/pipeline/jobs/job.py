"""What every result says about how it came to be, and the log that its job leaves.

A script does its work inside `with recorded(...)`: everything printed goes to the job's log, tracebacks
included, and a record (settings, versions, commit, wall time, notes) is written beside the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from rebend import __version__
from rebend.errors import RebendError
from rebend.io.files import disk_advice, file_digest, read_json, sweep, sweep_inside, write_json
from rebend.io.locks import locked
from rebend.io.secrets import clear_of_keys, show_without_keys, without_keys
from rebend.pipeline.jobs.gpus import take_gpus
from rebend.pipeline.jobs.integrity import check, digests_of, recorded_digests
from rebend.pipeline.jobs.planned_version import check_planned
from rebend.pipeline.jobs.warm_start import hand_over

_PACKAGES = ("torch", "transformers", "peft", "pandas", "pyarrow", "snakemake")


class Run:
    """One run of one stage: where its progress is kept, and what it wants written down."""

    def __init__(self, stage: str, settings: Mapping[str, Any], progress: Path) -> None:
        self.stage = stage
        self.settings = settings
        self.progress = progress
        self.notes: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        """Add facts (counts, not scored, fingerprints, losses) to the record."""
        self.notes.update(facts)


@contextmanager
def recorded(
    stage: str,
    inputs: Sequence[str],
    outputs: Any,
    params: Any,
    log: Sequence[str],
    threads: int,
    *,
    gpus: int = 0,
    network: bool = False,
    private: bool = False,
) -> Iterator[Run]:
    """Run a stage's work with its output in the log, and write its record when it is done.

    `outputs` are the paths of the results; the one named `record` is the record's. `params` has `settings` (a dict),
    `code` (digest of the stage's code) and `progress` (a folder). Of the GPUs that a local run lends, the stage gets
    `gpus`. Without `network` the hub's libraries may not use any, whatever they are asked for. What a `private` stage
    writes (results, progress, log) can be read by its owner only. Two jobs for the same results wait for each other;
    the second ends its process at once if the first has made them. Raises `ChangedError` before the work if code or
    settings are not those that the run was planned with, and `DataError` if a result among the inputs is damaged.
    """
    if not network:
        hand_over()
        os.environ["HF_HUB_OFFLINE"] = "1"
    sys.excepthook = show_without_keys
    if private:
        os.umask(0o077)
        _close([*outputs, *log])
    _use_threads(threads)
    settings = dict(params.settings)
    known = recorded_digests(inputs)
    record, results = outputs.record, [path for path in outputs if path != outputs.record]
    key = _key([record, params.code, settings], inputs, known)
    run = Run(stage, settings, Path(params.progress) / stage / key)
    # Whoever makes the same results, perhaps with other code or settings, has the same lock.
    lock = run.progress.with_name(f"{hashlib.sha256(record.encode()).hexdigest()[:16]}.lock")
    with disk_advice(Path(record)), locked(lock) as waited:
        if waited and _is_made(record, key):
            print(f"{stage}: another process has made it meanwhile", file=sys.stderr, flush=True)
            sys.exit(0)
        for path in outputs:
            sweep(path)
        sweep_inside(run.progress)
        taken = take_gpus(gpus)
        start = time.time()
        with _output_in(Path(log[0])):
            print(f"{stage}: started {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
            if taken:
                print(f"{stage}: on GPU {', '.join(taken)}", flush=True)
            check_planned(stage, record, params.code, settings)
            check(inputs, known)
            yield run
            seconds = time.time() - start
            digests = digests_of(results)
            print(f"{stage}: done in {seconds:.1f} s", flush=True)
        write_json(
            record,
            {
                "stage": stage,
                "settings": settings,
                "code": params.code,
                "key": key,
                "inputs": list(inputs),
                "log": log[0],
                "digests": digests,
                "notes": run.notes,
                "seconds": round(seconds, 2),
                **_usage(),
                "threads": threads,
                "device": _device(gpus),
                "gpus": gpus,
                "rebend": __version__,
                "commit": _commit(),
                "python": platform.python_version(),
                "machine": platform.machine(),
                "versions": _versions(),
            },
        )


@contextmanager
def _output_in(log: Path) -> Iterator[None]:
    """Send Python's output, and that of other programs and of C libraries (descriptors 1 and 2), to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    stream = log.open("w", buffering=1, encoding="utf-8")
    try:
        with redirect_stdout(stream), redirect_stderr(stream):
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            with disk_advice(log):
                yield
    except BaseException as error:
        _tell(error, stream, kept[1])
        raise
    finally:
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        with suppress(OSError):  # what the disk had no room for was said above
            stream.close()
            clear_of_keys(log)


def _tell(error: BaseException, log: TextIO, terminal: int) -> None:
    """Say in the log what went wrong; a log without room for it is no reason not to say it on the terminal."""
    known = isinstance(error, RebendError)
    text = f"{type(error).__name__}: {error}\n" if known else "".join(traceback.format_exception(error))
    text = without_keys(text)
    try:
        log.write(text)
        log.flush()
    except OSError:
        os.write(terminal, text.encode())


def _close(files: Sequence[str]) -> None:
    """Make the folders of private files readable by their owner only; Snakemake may have made them for all."""
    for folder in {Path(file).parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # somebody else's folder; the files are private all the same
            folder.chmod(0o700)


def _is_made(record: str, key: str) -> bool:
    """Whether the results of a job with this key are there, whole."""
    if not Path(record).is_file():
        return False
    made = read_json(record)
    digests = made.get("digests", {})
    return made.get("key") == key and all(Path(p).exists() and file_digest(p) == d for p, d in digests.items())


def _use_threads(threads: int) -> None:
    """Set the number of threads, whether torch is still to be imported or, in a warm process, already is."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _usage() -> dict[str, float]:
    """CPU time and peak memory of this process; Snakemake's benchmark files do not see a warm one."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak_kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2), "peak_mib": round(peak_kib / 1024, 1)}


def _device(gpus: int) -> str:
    """The kind of GPU that was used, here or by ranks that this process started, or "cpu"."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not (gpus or torch.cuda.is_initialized()):
        return "cpu"
    return torch.cuda.get_device_name()


def _key(plain: Sequence[Any], inputs: Sequence[str], known: Mapping[str, str]) -> str:
    """Digest of all that a job depends on: inputs by their `known` digest, others by size and time of change."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in inputs:
        root = Path(name)
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if (content := known.get(str(file))) is None:
                status = file.stat()
                content = f"{status.st_size} {status.st_mtime_ns}"
            digest.update(f"{file} {content}".encode())
    return digest.hexdigest()[:16]


def _commit() -> str | None:
    """Commit of the checkout that the code runs from, with a mark if it has changes; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
