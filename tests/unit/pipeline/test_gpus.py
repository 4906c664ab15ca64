"""GPUs of a workstation: each job has its own, and releases it when it ends. The devices are only names."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rebend.pipeline.jobs.gpus import DEVICES, LENT, lend, take_gpus, visible_gpus

# A job that takes devices, holds them for some seconds, and writes the time to a file.
JOB = """
import json, os, subprocess, sys, time
from rebend.io.locks import held_descriptors
from rebend.pipeline.jobs.gpus import take_gpus
count, folder, seconds, child = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4] == "child"
taken = take_gpus(count)
start = time.monotonic()
if child:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"], pass_fds=held_descriptors())
open(f"{folder}/started-{os.getpid()}", "w").close()
time.sleep(seconds)
span = {"taken": taken, "seen": os.environ["CUDA_VISIBLE_DEVICES"], "start": start, "end": time.monotonic()}
with open(f"{folder}/{os.getpid()}.json", "w") as stream:
    json.dump(span, stream)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a run that shares two devices; its locks are in a separate folder."""
    return {**os.environ, LENT: "0,GPU-8f3", "TMPDIR": str(tmp_path)}


@pytest.fixture
def without_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (LENT, DEVICES):
        monkeypatch.delenv(name, raising=False)
    yield
    for name in (LENT, DEVICES):
        os.environ.pop(name, None)


def job(
    folder: Path, environment: Mapping[str, str], count: int = 1, seconds: float = 0.3, child: str = ""
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", JOB, str(count), str(folder), str(seconds), child]
    return subprocess.Popen(command, env=dict(environment))


def spans_of(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def wait_for(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while not (folder / f"started-{process.pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [("0,1", ["0", "1"]), (" 2 , GPU-8f3", ["2", "GPU-8f3"]), ("", []), ("-1", []), ("1,-1,0", ["1"])],
)
def test_visible_gpus_are_those_that_cuda_would_use(
    chosen: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICES, chosen)
    assert visible_gpus() == names


def test_without_cuda_visible_devices_each_device_file_counts(without_devices: None) -> None:
    assert len(visible_gpus()) == len(list(Path("/dev").glob("nvidia[0-9]*")))


@pytest.mark.parametrize("gpus", [[], ["0"]])
def test_one_device_or_none_is_not_shared(gpus: list[str], without_devices: None) -> None:
    lend(gpus)
    assert LENT not in os.environ
    assert take_gpus(1) == []
    assert DEVICES not in os.environ


def test_two_jobs_never_hold_one_device_at_the_same_time(tmp_path: Path, environment: Mapping[str, str]) -> None:
    jobs = [job(tmp_path, environment) for _ in range(6)]
    assert [one.wait(timeout=60) for one in jobs] == [0] * 6
    results = spans_of(tmp_path)
    assert {one["seen"] for one in results} == {"0", "GPU-8f3"}
    for name in ("0", "GPU-8f3"):
        spans = sorted((one["start"], one["end"]) for one in results if one["taken"] == [name])
        assert spans
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_jobs_with_two_devices_wait_for_both_without_a_deadlock(tmp_path: Path, environment: Mapping[str, str]) -> None:
    jobs = [job(tmp_path, environment, count) for count in (1, 2, 2, 1)]
    assert [one.wait(timeout=60) for one in jobs] == [0] * 4
    both = [one for one in spans_of(tmp_path) if one["seen"] == "0,GPU-8f3"]
    assert len(both) == 2
    for one in both:
        others = [other for other in spans_of(tmp_path) if other != one]
        assert all(other["end"] <= one["start"] or one["end"] <= other["start"] for other in others)


def test_job_without_gpus_sees_none_and_does_not_wait(tmp_path: Path, environment: Mapping[str, str]) -> None:
    busy = job(tmp_path, environment, count=2, seconds=60)
    wait_for(tmp_path, busy)
    assert job(tmp_path, environment, count=0, seconds=0).wait(timeout=20) == 0
    busy.kill()
    busy.wait()
    assert [one["seen"] for one in spans_of(tmp_path)] == [""]


def test_too_many_gpus_are_reduced_to_all(tmp_path: Path, environment: Mapping[str, str]) -> None:
    assert job(tmp_path, environment, count=5, seconds=0).wait(timeout=20) == 0
    assert spans_of(tmp_path)[0]["taken"] == ["0", "GPU-8f3"]


def test_killed_job_releases_its_devices(tmp_path: Path, environment: Mapping[str, str]) -> None:
    killed = job(tmp_path, environment, count=2, seconds=60)
    wait_for(tmp_path, killed)
    waiting = job(tmp_path, environment, count=2, seconds=0)
    time.sleep(0.5)
    assert waiting.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert waiting.wait(timeout=20) == 0


def test_ranks_that_outlive_a_killed_job_keep_its_devices(tmp_path: Path, environment: Mapping[str, str]) -> None:
    killed = job(tmp_path, environment, count=2, seconds=4, child="child")
    wait_for(tmp_path, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    waiting = job(tmp_path, environment, count=1, seconds=0)
    time.sleep(0.8)
    assert waiting.poll() is None
    assert waiting.wait(timeout=20) == 0
