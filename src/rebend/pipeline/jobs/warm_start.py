"""Start the jobs of a local run in a process that has imported torch already.

Importing torch and transformers takes seconds, longer than many jobs of a small study. So a local run starts one server
process that imports the heavy packages (of rebend only what this module needs), and then waits for connections. A
script connects to it with `hand_over`: the server forks, the fork runs the script from its beginning, and the first
process only waits for its end. Without a server, or before it is ready, the script runs without it. `REBEND_WARM=off`
in the environment turns the server off.

Each job has three processes: the script as Snakemake started it (client), a fork of the server that supervises the job
(keeper), and a fork of the keeper that runs the job (worker). If the client receives a signal or is killed, the keeper
stops the worker; if Snakemake ends, the server stops all processes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from rebend.pipeline.jobs.supervised import WORKER, End, Report, finish, note, watch

VARIABLE = "REBEND_WARM"
HEAVY = (
    "snakemake.iocontainers",
    "snakemake.logging",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
    "transformers.generation.utils",
    "pyarrow.parquet",
    "pandas",
    "scipy.stats",
    "nltk.tokenize",
    "peft",
    "pydantic.types",
    "pydantic.json_schema",
    "numba",
)


def start_server() -> subprocess.Popen[bytes] | None:
    """Start the server and export its address to later processes; None if `REBEND_WARM` is `off`.

    The server ends when the returned object's standard input closes, so at the latest when this process ends.
    """
    if os.environ.get(VARIABLE) == "off":
        return None
    address = Path(tempfile.mkdtemp(prefix="rebend-")) / "warm"
    os.environ[VARIABLE] = str(address)
    command = [sys.executable, "-m", "rebend.pipeline.jobs.warm_start", str(address)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # read when the hub's library is imported; see `job`
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=nothing, start_new_session=True)


def hand_over(report: Report = lambda end: None) -> None:
    """Run this script in the server, call `report` with its end, and exit with its status.

    Returns if no server is ready.
    """
    address = os.environ.get(VARIABLE)
    if not address or address == "off":
        return
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        return
    job = {"script": str(Path(sys.argv[0]).resolve()), "folder": str(Path.cwd()), "environment": dict(os.environ)}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: connection.shutdown(socket.SHUT_WR))
    sys.stdout.flush()
    sys.stderr.flush()
    socket.send_fds(connection, [b"job"], [1, 2])
    connection.sendall(json.dumps(job).encode() + b"\n")
    finish(_end_of(connection), report)


def _end_of(connection: socket.socket) -> End:
    """Note the worker of a job, and return its end; status 1 if the keeper was killed."""
    lines = connection.makefile("rb")
    if worker := lines.readline():
        note(worker=int(worker))
    end = lines.readline()
    return End(**json.loads(end)) if end else End(1)


def serve(address: str) -> None:
    """Import the heavy packages, then fork a keeper for each connection until standard input closes."""
    for module in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes ended keepers
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                break
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep(connection)
            connection.close()
    Path(address).unlink()
    Path(address).parent.rmdir()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # end the jobs of the run that has ended


def _keep(connection: socket.socket) -> NoReturn:
    """Run one job in a fork, stop it if the client closes the connection, and send its end to the client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server's last signal must not end the keeper before its worker
    _, outputs, _, _ = socket.recv_fds(connection, 3, 2)
    job = json.loads(connection.makefile("rb").readline())
    worker = os.fork()
    if worker == 0:
        connection.close()
        _work(job, outputs)
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % worker)
    # The client sends nothing else: a connection that can be read was closed by a client that was stopped or killed.
    end = watch(worker, lambda seconds: bool(select.select([connection], [], [], seconds)[0]))
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(end._asdict()).encode() + b"\n")
    os._exit(0)


def _work(job: dict, outputs: list[int]) -> NoReturn:
    """Take over the folder, environment and output of a job, run its script, and exit with its status."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, descriptor in zip((1, 2), outputs, strict=True):
        os.dup2(descriptor, number)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update({**job["environment"], VARIABLE: "off", WORKER: str(os.getpid())})
    sys.argv = [job["script"]]
    code = 0
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)  # `job` sets a hook that removes keys
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
