"""Jobs cannot reach the hub, in a cold or a warm process; a request fails at once with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebend.pipeline.jobs.warm_start import VARIABLE
from tests.helpers.hub_server import COMMIT, Hub, serving
from tests.helpers.snakemake_job import ROOT
from tests.helpers.warm_server import warm_server

# A script as Snakemake would start it, with the part of Snakemake's object that `job` uses.
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from rebend.pipeline.jobs.job import job
from tests.helpers.snakemake_job import snakemake_job

with job(snakemake_job("", record="record.json", network={network})) as run:
    import os
    from huggingface_hub import hf_hub_download
    try:
        hf_hub_download("open/model", "config.json", revision="{commit}")
        outcome = "fetched"
    except Exception as error:
        outcome = f"{{error}} {{error.__cause__}}"  # as a traceback in the log shows it
    run.note(outcome=outcome, warm=os.environ.get("REBEND_WARM"))
"""


@pytest.fixture(scope="module")
def warm() -> Iterator[str]:
    with warm_server() as address:
        yield address


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as served:
        served.repos = {"open/model": {"config.json": b"{}"}}
        yield served


def record_of_script(folder: Path, hub: Hub, server: str, network: bool) -> str:
    """Run the script with a working hub and return its record."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), network=network, commit=COMMIT))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1", VARIABLE: server}
    done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "record.json").read_text()


@pytest.mark.parametrize("started", ["cold", "warm"])
def test_request_to_the_hub_fails_with_the_reason(tmp_path: Path, hub: Hub, warm: str, started: str) -> None:
    record = record_of_script(tmp_path, hub, warm if started == "warm" else "off", network=False)
    assert "offline mode is enabled" in record
    assert hub.requests == []


def test_fetching_job_may_use_the_hub_although_a_warm_process_exists(tmp_path: Path, hub: Hub, warm: str) -> None:
    assert '"outcome": "fetched"' in record_of_script(tmp_path, hub, warm, network=True)
    assert hub.requests
