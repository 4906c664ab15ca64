"""Output and tracebacks go to the log; a record is written beside a result that succeeded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rebend.errors import DataError, DiskError
from rebend.pipeline.jobs.job import recorded


class Outputs(list[str]):
    """Paths of results, one of them named, as Snakemake gives them."""

    def __init__(self, record: Path, *results: Path) -> None:
        super().__init__([str(path) for path in (*results, record)])
        self.record = str(record)


def params(tmp_path: Path, **settings: object) -> SimpleNamespace:
    return SimpleNamespace(settings=settings, code="abc", progress=str(tmp_path / "progress"))


def test_what_is_printed_is_in_the_log_also_by_other_programs(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "r.json", tmp_path / "result")
    with recorded("s", [], outputs, params(tmp_path, lr=1), [str(tmp_path / "l.log")], 1) as run:
        print("from python")
        subprocess.run(["echo", "from a program"], check=True)
        (tmp_path / "result").write_bytes(b"abc")
        run.note(rows=3)
    log = (tmp_path / "l.log").read_text()
    assert "from python" in log
    assert "from a program" in log
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["stage"] == "s"
    assert record["settings"] == {"lr": 1}
    assert record["notes"] == {"rows": 3}
    assert record["versions"]["pyarrow"]
    assert record["digests"] == {str(tmp_path / "result"): hashlib.sha256(b"abc").hexdigest()}


@pytest.mark.parametrize(
    ("error", "in_log"), [(KeyError("x"), "Traceback"), (DataError("file:3: bad"), "DataError: file:3: bad")]
)
def test_a_failure_is_in_the_log_and_leaves_no_record(tmp_path: Path, error: Exception, in_log: str) -> None:
    log = tmp_path / "l.log"
    with (
        pytest.raises(type(error)),
        recorded("s", [], Outputs(tmp_path / "r.json"), params(tmp_path), [str(log)], 1),
    ):
        raise error
    assert in_log in log.read_text()
    assert not (tmp_path / "r.json").exists()


def test_progress_has_another_place_for_other_settings_or_inputs(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("a")

    def place(settings: dict, inputs: list[str]) -> Path:
        arguments = [Outputs(tmp_path / "r.json"), params(tmp_path, **settings), [str(tmp_path / "l.log")], 1]
        with recorded("s", inputs, *arguments) as run:
            return run.progress

    first = place({"lr": 1}, [str(file)])
    assert place({"lr": 1}, [str(file)]) == first
    assert place({"lr": 2}, [str(file)]) != first
    file.write_text("bb")
    assert place({"lr": 1}, [str(file)]) != first


def make(tmp_path: Path, inputs: list[str]) -> Path:
    """Run a stage that makes nothing; its progress folder."""
    arguments = (Outputs(tmp_path / "r.json"), params(tmp_path), [str(tmp_path / "l.log")], 1)
    with recorded("s", inputs, *arguments) as run:
        return run.progress


def test_progress_is_found_again_when_an_input_was_made_again_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    places = set()
    for _ in range(2):
        with recorded("first", [], Outputs(tmp_path / "x.json", file), params(tmp_path), [str(tmp_path / "l")], 1):
            file.write_text("same")
            os.utime(file, (time.time(), time.time() + len(places)))
        places.add(make(tmp_path, [str(file)]))
    assert len(places) == 1


def test_what_killed_jobs_left_of_the_results_goes(tmp_path: Path) -> None:
    place = make(tmp_path, [])
    ours, others = tmp_path / ".r.json.01234567.part", tmp_path / ".other.json.01234567.part"
    inside = place / "deeper" / ".a.json.01234567.part"
    inside.parent.mkdir(parents=True)
    for path in (ours, others, inside):
        path.write_text("half")
    make(tmp_path, [])
    assert (ours.exists(), others.exists(), inside.exists()) == (False, True, False)


def test_a_log_without_room_leaves_the_error_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with (
        pytest.raises(DiskError),
        recorded("s", [], Outputs(tmp_path / "r.json"), params(tmp_path), ["/dev/full"], 1),
    ):
        pass
    assert "DiskError: /dev/full: cannot be written, the disk is full" in capfd.readouterr().err


JOB = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from rebend.pipeline.jobs.job import recorded

class Outputs(list):
    record = "r.json"

params = SimpleNamespace(settings={"lr": sys.argv[1]}, code="abc", progress="progress")
with recorded("s", [], Outputs(["x", "r.json"]), params, ["l.log"], 1):
    Path("begun").touch()
    time.sleep(float(sys.argv[2]))
    Path("x").write_text(sys.argv[1])
"""


def test_who_makes_the_same_results_with_other_settings_has_the_last_word_if_it_came_last(tmp_path: Path) -> None:
    """An orphan of an older run must not write over what a newer run has made."""
    environment = {**os.environ, "REBEND_WARM": "off"}
    orphan = subprocess.Popen([sys.executable, "-c", JOB, "old", "2"], cwd=tmp_path, env=environment)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    subprocess.run([sys.executable, "-c", JOB, "new", "0"], cwd=tmp_path, env=environment, check=True)
    assert orphan.wait() == 0
    assert (tmp_path / "x").read_text() == "new"
    assert json.loads((tmp_path / "r.json").read_text())["settings"] == {"lr": "new"}
