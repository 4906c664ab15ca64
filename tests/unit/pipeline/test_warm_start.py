"""A script in the warm server has the same output and status as in its own process, and ends with its client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebend.pipeline.jobs.warm_start import VARIABLE
from tests.helpers.warm_server import warm_server

SCRIPT = """
import sys
from rebend.pipeline.jobs.warm_start import hand_over
hand_over()
import os
print("warm" if "torch" in sys.modules else "cold", os.getcwd(), os.environ["MARK"])
{body}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server and return its address."""
    with warm_server() as address:
        yield address
    assert not Path(address).exists()


def start(folder: Path, body: str, address: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(body=body))
    environment = {**os.environ, VARIABLE: address, "MARK": "seen"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, script], cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe)


def test_script_keeps_its_folder_and_environment(tmp_path: Path, server: str) -> None:
    out, err = start(tmp_path, "", server).communicate()
    assert out == f"warm {tmp_path} seen\n", err


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('why')", 1, "why"),
        ("raise ValueError('bad')", 1, "ValueError: bad"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, ""),
    ],
)
def test_failure_has_the_same_status_and_message(
    tmp_path: Path, server: str, body: str, status: int, message: str
) -> None:
    process = start(tmp_path, body, server)
    _, err = process.communicate()
    assert process.returncode == status
    assert message in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_worker_ends_with_its_client(tmp_path: Path, server: str, number: int) -> None:
    process = start(
        tmp_path, "import pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(99)", server
    )
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode != 0
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline, "the worker is still running"
        time.sleep(0.05)


def test_worker_holds_its_gpu_until_it_ends(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBEND_GPUS", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    take = "from rebend.pipeline.jobs.gpus import take_gpus; take_gpus(1)"
    take += "; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    held = [start(tmp_path / "long", f"{take}\nimport time; time.sleep(99)", server) for _ in range(2)]
    assert sorted(process.stdout.readline().split()[0] for process in held) == ["warm", "warm"]
    assert sorted(process.stdout.readline().strip() for process in held) == ["0", "1"]
    waiting = start(tmp_path / "short", take, server)
    time.sleep(0.5)
    assert waiting.poll() is None
    held[0].kill()
    out, err = waiting.communicate(timeout=20)
    assert out.splitlines()[-1] in ("0", "1"), err
    held[1].kill()
    for process in held:
        process.communicate(timeout=20)


@pytest.mark.parametrize("address", ["off", "/nowhere/warm"])
def test_script_runs_in_its_own_process_without_a_server(tmp_path: Path, address: str) -> None:
    out, _ = start(tmp_path, "", address).communicate()
    assert out.startswith("cold")


def test_server_ends_with_its_parent(tmp_path: Path) -> None:
    code = "import os\nfrom rebend.pipeline.jobs.warm_start import start_server\np = start_server()"
    code += f"\nprint(p.pid, os.environ['{VARIABLE}'])"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    server = int(done.stdout.split()[0])
    deadline = time.monotonic() + 60  # the server checks its input after its imports
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
