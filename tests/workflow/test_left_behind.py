"""Results without Snakemake's metadata: their job ended after its Snakemake had been killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.workflow.checkout import Checkout
from tests.workflow.jobs import copy_of

FIRST, OTHER = (f"results/data/{name}.parquet" for name in ("micro_test", "micro_validation"))
CHANGE: dict[str, Any] = {"datasets": {"micro_test": {"seed": 1}}}


def build_without_metadata(checkout: Checkout) -> None:
    """Build a result and delete its metadata, as if Snakemake had been killed before its job ended."""
    assert checkout.snakemake(FIRST).returncode == 0
    delete_metadata(checkout)


def delete_metadata(checkout: Checkout) -> None:
    """Delete Snakemake's metadata of all results."""
    for file in (checkout.folder / ".snakemake/metadata").rglob("*"):
        if file.is_file():
            file.unlink()


def test_result_without_metadata_is_kept_and_depends_on_its_settings_again(checkout: Checkout) -> None:
    build_without_metadata(checkout)
    before = (checkout.folder / FIRST).stat().st_mtime_ns
    done = checkout.snakemake(FIRST, OTHER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (checkout.folder / FIRST).stat().st_mtime_ns == before
    planned = checkout.snakemake("--dry-run", FIRST, OTHER, change=CHANGE)
    assert "params" in planned.stdout.lower(), planned.stdout[-2000:]
    assert "prepare_dataset" in planned.stdout


def test_result_without_metadata_and_with_other_settings_is_refused(checkout: Checkout) -> None:
    build_without_metadata(checkout)
    done = checkout.snakemake(FIRST, OTHER, change=CHANGE)
    assert done.returncode != 0
    assert "other code or settings" in done.stderr
    assert "results/data/micro_test" in done.stderr
    assert not (checkout.folder / OTHER).exists()


def test_study_without_metadata_is_published(built: Checkout, tmp_path: Path) -> None:
    checkout = copy_of(built, tmp_path / "copy")
    delete_metadata(checkout)
    shutil.rmtree(checkout.folder / "results/tables")
    module = checkout.folder / "src/rebend/report/html/page.py"
    before = module.read_text()
    module.write_text(before + "NEW = 1\n")
    done = checkout.snakemake()
    assert done.returncode != 0
    assert "other code or settings" in done.stderr and "results/studies/study/report" in done.stderr
    module.write_text(before)
    done = checkout.snakemake()
    assert done.returncode == 0, done.stderr[-3000:]
    assert (checkout.folder / "results/tables/matrix.csv").is_file()
    assert checkout.would_run() == set()
    module.write_text(before + "NEW = 1\n")
    assert checkout.would_run() == {"make_report", "publish"}
