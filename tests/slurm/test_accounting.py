"""The profile on a Slurm with accounting, which refuses users without an account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.accounting import ACCOUNT
from tests.slurm.cluster import Cluster
from tests.slurm.lab import Lab, missing
from tests.workflow.checkout import MICRO, Checkout

pytestmark = pytest.mark.slurm

STUDY = f"{MICRO}/study.yaml"
CHANGE = {"models": {"micro": {"resources": {"gpu": 1, "mem_mb": 1500, "runtime": 20}}}}
RESULT = "results/adapters/micro/micro_adapter/adapter_config.json"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Slurm with accounting."""
    if reason := missing(accounting=True):
        pytest.skip(reason)
    with Lab.running(tmp_path_factory.mktemp("accounting"), accounting=True) as lab:
        yield lab


@pytest.fixture
def cluster(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    """A new checkout whose jobs go to the lab."""
    cluster = Cluster(lab, Checkout.make(tmp_path / "checkout"), STUDY, CHANGE)
    try:
        yield cluster
    finally:
        cluster.end()


def records(lab: Lab) -> list[dict[str, str]]:
    """Return sacct's record of each job, oldest first."""
    names = ["JobID", "Comment", "Account", "Partition", "State", "AllocTRES"]
    lines = lab.call("sacct", "--allusers", "--noheader", "--allocations", "--parsable2", f"--format={','.join(names)}")
    return [dict(zip(names, line.split("|"), strict=True)) for line in lines.splitlines()]


def test_run_uses_the_default_account_and_submits_a_cancelled_job_again(cluster: Cluster) -> None:
    run = cluster.start("results/adapters/micro/micro_adapter", "--slurm-efficiency-report")
    run.wait_until(lambda: bool(_training(cluster.lab)))
    cluster.lab.call("scancel", _training(cluster.lab)[0])
    assert run.wait(400) == 0, run.output()[-3000:]
    assert (cluster.checkout.folder / RESULT).is_file()

    job_records = records(cluster.lab)
    assert {record["Account"] for record in job_records} == {ACCOUNT}
    adapters = [record for record in job_records if "train_adapter" in record["Comment"]]
    assert [record["State"].split()[0] for record in adapters] == ["CANCELLED", "COMPLETED"]
    assert all("gres/gpu=1" in record["AllocTRES"] for record in adapters)
    assert {record["Partition"] for record in adapters} == {"gpu"}
    (report,) = cluster.checkout.folder.glob("efficiency_report_*.csv")
    assert "train_adapter" in report.read_text()


def _training(lab: Lab) -> list[str]:
    return [job for job, comment, _ in lab.queue() if "train_adapter" in comment]


def test_unknown_account_is_refused_before_the_first_job(cluster: Cluster) -> None:
    before = len(records(cluster.lab))
    run = cluster.start("results/data/micro_test.parquet", "--default-resources", "slurm_account=reserch")
    assert run.wait(120) != 0
    assert "slurm_account: 'reserch' is none of your accounts" in run.output(), run.output()[-2000:]
    assert f"Did you mean '{ACCOUNT}'?" in run.output()
    assert len(records(cluster.lab)) == before
