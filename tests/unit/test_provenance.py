"""Output and tracebacks go to the log; a record is written beside a result that succeeded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from rebend.errors import DataError
from rebend.provenance import recorded


def params(tmp_path: Path, **settings: object) -> SimpleNamespace:
    return SimpleNamespace(settings=settings, code="abc", progress=str(tmp_path / "progress"))


def test_what_is_printed_is_in_the_log_also_by_other_programs(tmp_path: Path) -> None:
    with recorded("s", [], str(tmp_path / "r.json"), params(tmp_path, lr=1), [str(tmp_path / "l.log")], 1) as run:
        print("from python")
        subprocess.run(["echo", "from a program"], check=True)
        run.note(rows=3)
    log = (tmp_path / "l.log").read_text()
    assert "from python" in log
    assert "from a program" in log
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["stage"] == "s"
    assert record["settings"] == {"lr": 1}
    assert record["notes"] == {"rows": 3}
    assert record["versions"]["pyarrow"]


@pytest.mark.parametrize(
    ("error", "in_log"), [(KeyError("x"), "Traceback"), (DataError("file:3: bad"), "DataError: file:3: bad")]
)
def test_a_failure_is_in_the_log_and_leaves_no_record(tmp_path: Path, error: Exception, in_log: str) -> None:
    log = tmp_path / "l.log"
    with (
        pytest.raises(type(error)),
        recorded("s", [], str(tmp_path / "r.json"), params(tmp_path), [str(log)], 1),
    ):
        raise error
    assert in_log in log.read_text()
    assert not (tmp_path / "r.json").exists()


def test_progress_has_another_place_for_other_settings_or_inputs(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("a")

    def place(settings: dict, inputs: list[str]) -> Path:
        arguments = [str(tmp_path / "r.json"), params(tmp_path, **settings), [str(tmp_path / "l.log")], 1]
        with recorded("s", inputs, *arguments) as run:
            return run.progress

    first = place({"lr": 1}, [str(file)])
    assert place({"lr": 1}, [str(file)]) == first
    assert place({"lr": 2}, [str(file)]) != first
    file.write_text("bb")
    assert place({"lr": 1}, [str(file)]) != first
