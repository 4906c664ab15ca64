"""Run records and job logs.

A script does its work inside `with job(snakemake) as run:`. The block's output and tracebacks go to the job's log. A
record (settings, versions, commit, wall time, notes) is written beside the result. Scripts import heavy packages inside
the block, because log, threads and offline mode must be set first, and the warm process has imported the packages.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from rebend import __version__
from rebend.errors import RebendError
from rebend.io.checksums import bytes_digest, file_digest, json_digest
from rebend.io.files import disk_advice, read_json, sweep, sweep_inside, write_json
from rebend.io.locks import locked
from rebend.io.secrets import clear_of_keys, show_without_keys, without_keys
from rebend.pipeline.jobs.gpus import take_gpus
from rebend.pipeline.jobs.integrity import check, digests_of, recorded_digests
from rebend.pipeline.jobs.out_of_memory import earlier_message, error_advice, kills_of, report_kill
from rebend.pipeline.jobs.planned_version import check_planned
from rebend.pipeline.jobs.supervised import run_apart
from rebend.pipeline.jobs.warm_start import hand_over

_PACKAGES = ("torch", "transformers", "peft", "pandas", "pyarrow", "snakemake")


class Run:
    """One run of one stage: its settings, its progress folder and the notes for its record."""

    def __init__(self, stage: str, settings: Mapping[str, Any], progress: Path) -> None:
        self.stage = stage
        self.settings = settings
        self.progress = progress
        self.notes: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        """Add `facts` (counts, fingerprints, losses) to the notes in the record."""
        self.notes.update(facts)


@contextmanager
def job(snakemake: Any) -> Iterator[Run]:
    """Run the block with its output in the log; write the stage's record if it succeeds.

    Of Snakemake's object it uses `rule` (the stage), `input`, `output` (the path named `record` is the record's),
    `params` (see `rebend.pipeline.stages.rules.Stages`), `log`, `threads` and the resource `gpu`. Two jobs for the same
    results run one after the other; the second exits with status 0 if the first has written them.

    The block runs in another process than the one that Snakemake has started (`rebend.pipeline.jobs.supervised`); if
    that is killed, the first process writes to the log that memory ran out, and which keys need less.

    Raises `ChangedError` before the work if code or settings differ from the planned ones, and `DataError` if a result
    among the inputs is damaged.
    """
    params, outputs, log, stage = snakemake.params, snakemake.output, Path(snakemake.log[0]), snakemake.rule
    gpus = snakemake.resources.get("gpu", 0)
    _prepare_process(snakemake)
    settings, known = dict(params.settings), recorded_digests(snakemake.input)
    key = _key([outputs.record, params.code, settings], snakemake.input, known)
    run, kills = Run(stage, settings, Path(params.progress) / stage / key), kills_of(snakemake)
    with disk_advice(Path(outputs.record)), locked(_lock(run, outputs.record)) as waited:
        if waited and _is_made(outputs.record, key):
            print(f"{stage}: another process made these results in the meantime", file=sys.stderr, flush=True)
            sys.exit(0)
        for path in outputs:
            sweep(path)
        sweep_inside(run.progress)
        devices = take_gpus(gpus)
        start = time.time()
        with _output_in(log, partial(error_advice, snakemake)):
            print(f"{stage}: started {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
            if before := earlier_message(stage, kills):
                print(before, flush=True)
            if devices:
                print(f"{stage}: on GPU {', '.join(devices)}", flush=True)
            check_planned(stage, outputs.record, params.code, settings, params.get("entries", ()))
            check(snakemake.input, known)
            yield run
            seconds = time.time() - start
            digests = digests_of([path for path in outputs if path != outputs.record])
            print(f"{stage}: done in {seconds:.1f} s", flush=True)
        facts = {"key": key, "digests": digests, "notes": run.notes, "seconds": round(seconds, 2)}
        write_json(outputs.record, {**_job_facts(snakemake, settings), **facts, **_usage(), **_environment(gpus)})
        kills.clear()


def _prepare_process(snakemake: Any) -> None:
    """Continue in the warm server if possible, else in a fork; set network, file permissions and threads there.

    Without the param `network`, the script may run in the warm server, and the hub's libraries stay offline. With
    `private`, only the owner can read results, progress and log. With `private="files"`, the folder of the results
    stays readable, because other stages share it.
    """
    if not snakemake.params.get("network", False):
        hand_over(partial(report_kill, snakemake))
        os.environ["HF_HUB_OFFLINE"] = "1"
    if getattr(sys.modules["__main__"], "snakemake", None) is snakemake:  # a script of Snakemake, no test
        run_apart(partial(report_kill, snakemake))
    sys.excepthook = show_without_keys
    if snakemake.params.get("private", False):
        os.umask(0o077)
        of_results = [] if snakemake.params.private == "files" else snakemake.output
        _make_folders_private([*of_results, *snakemake.log])
    _use_threads(snakemake.threads)


def _lock(run: Run, record: str) -> Path:
    """Return the lock file of a record; it does not depend on code and settings, as these write the same results."""
    return run.progress.with_name(f"{bytes_digest(record.encode())[:16]}.lock")


def _job_facts(snakemake: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that Snakemake planned, for the record."""
    return {
        "stage": snakemake.rule,
        "settings": settings,
        "code": snakemake.params.code,
        "inputs": list(snakemake.input),
        "log": snakemake.log[0],
        "threads": snakemake.threads,
    }


def _environment(gpus: int) -> dict[str, Any]:
    """Return device, commit and versions, for the record."""
    return {
        "device": _device(gpus),
        "gpus": gpus,
        "rebend": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": _versions(),
    }


@contextmanager
def _output_in(log: Path, advice: Callable[[BaseException], str]) -> Iterator[None]:
    """Send Python's output, and that of other programs and of C libraries (descriptors 1 and 2), to `log`.

    An error goes to the log, too, followed by the `advice` about it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    stream = log.open("w", buffering=1, encoding="utf-8")
    try:
        with redirect_stdout(stream), redirect_stderr(stream):
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            with disk_advice(log):
                yield
    except BaseException as error:
        _write_error(error, advice(error), stream, terminal=saved[1])
        raise
    finally:
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        with suppress(OSError):  # a full disk was reported above
            stream.close()
            clear_of_keys(log)


def _write_error(error: BaseException, advice: str, log: TextIO, terminal: int) -> None:
    """Write an error and the advice about it to the log, or to the terminal if the log's disk is full."""
    is_expected = isinstance(error, RebendError)
    text = f"{type(error).__name__}: {error}\n" if is_expected else "".join(traceback.format_exception(error))
    text = without_keys(text + advice)
    try:
        log.write(text)
        log.flush()
    except OSError:
        os.write(terminal, text.encode())


def _make_folders_private(files: Sequence[str]) -> None:
    """Let only the owner read the folders of private files; Snakemake creates them readable by all users."""
    for folder in {Path(file).parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # another user's folder; the files are private anyway
            folder.chmod(0o700)


def _is_made(record: str, key: str) -> bool:
    """Return whether the results of a job with this key exist and match their checksums."""
    if not Path(record).is_file():
        return False
    facts = read_json(record)
    digests = facts.get("digests", {})
    return facts.get("key") == key and all(Path(p).exists() and file_digest(p) == d for p, d in digests.items())


def _use_threads(threads: int) -> None:
    """Set the number of threads, also of a torch that the warm process has already imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _usage() -> dict[str, float]:
    """Return CPU time and peak memory of this process; Snakemake's benchmark files do not measure a warm process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak_kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2), "peak_mib": round(peak_kib / 1024, 1)}


def _device(gpus: int) -> str:
    """Return the kind of GPU that this process or its ranks used, or "cpu"."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not (gpus or torch.cuda.is_initialized()):
        return "cpu"
    return torch.cuda.get_device_name()


def _key(plain: Sequence[Any], inputs: Sequence[str], known: Mapping[str, str]) -> str:
    """Return a digest of a job's settings, code and inputs: `known` digests, else size and modification time."""
    return json_digest(plain, *_input_versions(inputs, known))[:16]


def _input_versions(inputs: Sequence[str], known: Mapping[str, str]) -> Iterator[str]:
    """Yield the path and the version of each input file, also of those in input folders."""
    for name in inputs:
        root = Path(name)
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if (content := known.get(str(file))) is None:
                status = file.stat()
                content = f"{status.st_size} {status.st_mtime_ns}"
            yield f"{file} {content}"


def _commit() -> str | None:
    """Return the commit of the checkout, with "-dirty" if it has changes; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
