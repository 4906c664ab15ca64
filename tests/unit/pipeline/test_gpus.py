"""GPUs of a workstation: each job has its own, and gives it back however it ends. Devices are pretended by name."""

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

# Takes devices, writes down when it had them, and works for a while.
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
lived = {"taken": taken, "seen": os.environ["CUDA_VISIBLE_DEVICES"], "start": start, "end": time.monotonic()}
with open(f"{folder}/{os.getpid()}.json", "w") as stream:
    json.dump(lived, stream)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """A run that lends two devices, with locks of its own."""
    return {**os.environ, LENT: "0,GPU-8f3", "TMPDIR": str(tmp_path)}


@pytest.fixture
def unlent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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


def lived(folder: Path) -> list[dict]:
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
def test_devices_are_those_that_cuda_would_see(chosen: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES, chosen)
    assert visible_gpus() == names


def test_without_a_choice_each_device_file_is_a_device(unlent: None) -> None:
    assert len(visible_gpus()) == len(list(Path("/dev").glob("nvidia[0-9]*")))


@pytest.mark.parametrize("gpus", [[], ["0"]])
def test_one_device_or_none_is_not_lent(gpus: list[str], unlent: None) -> None:
    lend(gpus)
    assert LENT not in os.environ
    assert take_gpus(1) == []
    assert DEVICES not in os.environ


def test_no_two_jobs_have_one_device_at_a_time(tmp_path: Path, environment: Mapping[str, str]) -> None:
    jobs = [job(tmp_path, environment) for _ in range(6)]
    assert [one.wait(timeout=60) for one in jobs] == [0] * 6
    found = lived(tmp_path)
    assert {one["seen"] for one in found} == {"0", "GPU-8f3"}
    for name in ("0", "GPU-8f3"):
        spans = sorted((one["start"], one["end"]) for one in found if one["taken"] == [name])
        assert spans
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_job_of_two_devices_waits_for_both_and_two_such_jobs_do_not_block_each_other(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    jobs = [job(tmp_path, environment, count) for count in (1, 2, 2, 1)]
    assert [one.wait(timeout=60) for one in jobs] == [0] * 4
    whole = [one for one in lived(tmp_path) if one["seen"] == "0,GPU-8f3"]
    assert len(whole) == 2
    for one in whole:
        others = [other for other in lived(tmp_path) if other != one]
        assert all(other["end"] <= one["start"] or one["end"] <= other["start"] for other in others)


def test_a_job_that_asks_for_none_sees_none_and_does_not_wait(tmp_path: Path, environment: Mapping[str, str]) -> None:
    busy = job(tmp_path, environment, count=2, seconds=60)
    wait_for(tmp_path, busy)
    assert job(tmp_path, environment, count=0, seconds=0).wait(timeout=20) == 0
    busy.kill()
    busy.wait()
    assert [one["seen"] for one in lived(tmp_path)] == [""]


def test_more_than_there_are_is_all_of_them(tmp_path: Path, environment: Mapping[str, str]) -> None:
    assert job(tmp_path, environment, count=5, seconds=0).wait(timeout=20) == 0
    assert lived(tmp_path)[0]["taken"] == ["0", "GPU-8f3"]


def test_a_killed_job_gives_its_devices_back(tmp_path: Path, environment: Mapping[str, str]) -> None:
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
