"""A job without memory says so in its log: its peak, the machine's memory, and the keys that need less."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from rebend.config.catalogue import block_classes
from rebend.errors import ModelError
from rebend.pipeline.jobs.memory_keys import KEYS, PLACES, Key
from rebend.pipeline.jobs.out_of_memory import is_out_of_memory, killed_message, remedies
from rebend.pipeline.jobs.supervised import End
from rebend.pipeline.jobs.warm_start import VARIABLE
from tests.helpers.snakemake_job import python_path
from tests.helpers.warm_server import warm_server

# As Snakemake writes it: the object is a global of the script. The job fills `sys.argv` MB of memory.
SCRIPT = """
import sys
sys.path[:0] = {path}
from tests.helpers.snakemake_job import snakemake_job
snakemake = snakemake_job({folder!r}, rule="decode", settings={settings!r})
snakemake.wildcards["control"] = "none"
from rebend.pipeline.jobs.job import job
with job(snakemake):
    import os, signal, time
    {body}
"""
SETTINGS = {"control": {"decoding": {"batch_size": 60, "max_new_tokens": 48}}}
KILL = "filled = b'x' * 300_000_000; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a warm server."""
    with warm_server() as address:
        yield address


def start(folder: Path, body: str, address: str, settings: dict[str, Any] = SETTINGS) -> subprocess.Popen[str]:
    """Start a job whose block is `body`."""
    script = folder / "job.py"
    path = python_path().split(os.pathsep)
    script.write_text(SCRIPT.format(path=path, folder=str(folder), settings=settings, body=body))
    environment = {**os.environ, VARIABLE: address}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, script], cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe)


def run(folder: Path, body: str, address: str, settings: dict[str, Any] = SETTINGS) -> tuple[int, str]:
    """Run a job to its end; return its status and its log."""
    process = start(folder, body, address, settings)
    output = "".join(process.communicate(timeout=60))
    log = folder / "l.log"
    return process.returncode, log.read_text() if log.exists() else output


@pytest.mark.parametrize("warm", [True, False])
def test_killed_job_names_peak_and_keys_and_counts_its_kills(tmp_path: Path, server: str, warm: bool) -> None:
    address = server if warm else "off"
    status, log = run(tmp_path, KILL, address)
    assert status == 137
    assert re.search(r"decode: its process was killed \(SIGKILL, exit status 137\) after \d+ s", log), log
    peak = re.search(r"peak memory of the process (\S+) GB; this machine has \S+ GB", log)
    assert peak is not None and 0.3 <= float(peak[1]) < 2
    assert "controls.none.decoding.batch_size (smaller; now 60)" in log
    assert "controls.none.decoding.max_new_tokens (smaller; now 48)" in log
    assert "kill number" not in log and "before" not in log

    status, log = run(tmp_path, KILL, address)
    assert status == 137
    assert "decode: was killed once with these settings before, the last time with a peak of" in log
    assert "this is kill number 2 with these settings" in log

    smaller = {"control": {"decoding": {"batch_size": 8, "max_new_tokens": 48}}}
    status, log = run(tmp_path, KILL, address, smaller)
    assert (status, "kill number" in log, "now 8" in log) == (137, False, True)

    status, log = run(tmp_path, "pass", address, smaller)
    assert status == 0 and "was killed once" in log
    assert not list((tmp_path / "progress").rglob("*.killed.json"))


@pytest.mark.parametrize("warm", [True, False])
def test_stopped_and_failed_jobs_do_not_speak_of_memory(tmp_path: Path, server: str, warm: bool) -> None:
    address = server if warm else "off"
    status, log = run(tmp_path, "raise SystemExit(3)", address)
    assert status == 3 and "killed" not in log and "memory" not in log
    process = start(tmp_path, "print('begun', flush=True); time.sleep(60)", address)
    while "begun" not in (tmp_path / "l.log").read_text():
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "memory" not in (tmp_path / "l.log").read_text()


@pytest.mark.parametrize(
    "body",
    [
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); b'x' * 2**33",
        "import torch; torch.empty(2**50)",
    ],
)
def test_failed_allocation_names_the_keys_too(tmp_path: Path, body: str) -> None:
    status, log = run(tmp_path, body, "off")
    assert status == 1
    assert "MemoryError" in log or "can't allocate memory" in log
    assert "decode: memory ran out; this machine has" in log
    assert "controls.none.decoding.batch_size (smaller; now 60)" in log


@contextmanager
def limited_group(n_bytes: int) -> Iterator[Path]:
    """Yield the file that takes the processes of a new control group with this much memory; skip if not allowed."""
    for root, limit in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = Path(root, f"rebend-test-{os.getpid()}")
        with suppress(OSError):
            group.mkdir()
        if not group.is_dir():
            continue
        try:
            if (group / limit).is_file():
                (group / limit).write_text(str(n_bytes))
                yield group / "cgroup.procs"
                return
        finally:
            group.rmdir()
    pytest.skip("needs the right to make a control group with a limit of memory")


def test_job_above_the_limit_of_its_group_is_killed_and_says_why(tmp_path: Path) -> None:
    with limited_group(400 * 10**6) as processes:
        enter = f"open({str(processes)!r}, 'w').write(str(os.getpid()))"
        status, log = run(tmp_path, f"{enter}; filled = b'x' * 10**9; print('not killed')", "off")
    assert status == 137, log
    assert "The system killed it because memory ran out." in log
    assert "not killed" not in log


def test_worker_without_server_ends_with_its_killed_parent(tmp_path: Path) -> None:
    process = start(tmp_path, "print('worker', os.getpid(), flush=True); time.sleep(60)", "off")
    while not (match := re.search(r"worker (\d+)\n", _text(tmp_path / "l.log"))):
        time.sleep(0.02)
    assert int(match[1]) != process.pid
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{match[1]}").exists() and "Z" not in _text(Path(f"/proc/{match[1]}/stat")).split(")")[-1]:
        assert time.monotonic() < deadline, "the worker is still running"
        time.sleep(0.05)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_cause_depends_on_the_kills_that_the_system_counted() -> None:
    end = End(137, seconds=12.4, peak_mib=21.5e9 / 2**20)
    assert "Most likely the system killed it" in killed_message("s", end, 1, "")
    assert "The system killed it because" in killed_message("s", end._replace(memory_kills=1), 1, "")
    assert "has counted no kill for memory" in killed_message("s", end._replace(memory_kills=0), 1, "")
    assert "after 12 s" in killed_message("s", end, 1, "") and "21.5 GB" in killed_message("s", end, 1, "")


def test_errors_about_memory_are_recognised() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(ModelError("out of memory (CUDA). Remedies: less"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(OSError("out of memory"))


def test_keys_that_a_block_does_not_have_are_left_out() -> None:
    text = remedies("attack", {"attack": {"method": "direct"}, **SETTINGS}, {"attack": "plain", "control": "c"})
    assert "attacks." not in text and "controls.c.decoding.batch_size (smaller; now 60)" in text
    text = remedies("train_adapter", {"adapter": {"micro_batch": None, "max_length": 96}}, {"adapter": "bend"})
    assert "adapters.bend.micro_batch (smaller; now absent); adapters.bend.max_length (smaller; now 96)" in text
    assert "no key lowers its peak memory, but fewer jobs" in remedies("make_tables", {}, {})


def test_blocks_that_no_wildcard_names_are_named_by_the_settings() -> None:
    settings = {"block": {"judge": "strict", "decoding": {"batch_tokens": None}}, "safety_judge": {"batch_size": 8}}
    text = remedies("sample_pairs", settings, {"dataset": "pairs"})
    assert "datasets.pairs.decoding.batch_tokens (smaller; now absent)" in text
    assert "safety_judges.strict.batch_size (smaller; now 8)" in text
    choice = {"reward": "helpful", "encoder": "minilm"}
    settings = {"control": {"choice": choice}, "reward": {"max_length": 96}, "encoder": {"batch_size": 16}}
    text = remedies("choose_strength", settings, {"control": "value"})
    assert "rewards.helpful.max_length (smaller; now 96); encoders.minilm.batch_size (smaller; now 16)" in text


def _has(block: Any, path: str) -> bool:
    name, _, rest = path.partition(".")
    if name not in block.model_fields:
        return False
    kinds = [block.model_fields[name].annotation, *getattr(block.model_fields[name].annotation, "__args__", ())]
    return not rest or any(_has(kind, rest) for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


@pytest.mark.parametrize(("stage", "key"), [(stage, key) for stage, keys in KEYS.items() for key in keys])
def test_keys_of_the_table_are_keys_of_the_configuration(stage: str, key: Key) -> None:
    assert any(_has(block, key.path) for block in block_classes(key.section)), f"{stage}: {key}"
    assert key.section in PLACES


@pytest.mark.parametrize("stage", KEYS)
def test_stage_with_a_batch_size_names_its_limit_of_tokens_too(stage: str) -> None:
    named = {(key.section, key.path) for key in KEYS[stage]}
    for section, path in named:
        tokens = path.replace("batch_size", "batch_tokens")
        if any(_has(block, path) and _has(block, tokens) for block in block_classes(section)):
            assert (section, tokens) in named, f"{stage}: {section}.{tokens}"


def test_every_stage_with_an_estimate_has_keys_that_lower_it() -> None:
    without = {"prepare_model", "merge_adapter", "orthogonalise_weights", "score_perplexity", "score_chats"}
    without |= {"fit_direction"}
    text = (Path(__file__).parents[4] / "src/rebend/pipeline/cost/memory.py").read_text()
    estimated = set(re.findall(r'^ +"(\w+)": self\._\w+,$', text, re.MULTILINE))
    assert len(estimated) > 15 and estimated == set(KEYS) - {"train_tiny_model"} | without


def test_stages_of_the_table_are_rules() -> None:
    rules = "".join(file.read_text() for file in Path(__file__).parents[4].glob("workflow/rules/*.smk"))
    assert set(KEYS) <= set(re.findall(r"^rule (\w+):", rules, re.MULTILINE))
