"""Results that nobody noted: their job went on after its Snakemake had been killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.workflow.checkout import Checkout
from tests.workflow.jobs import copy_of

FIRST, OTHER = (f"results/data/{name}.parquet" for name in ("micro_test", "micro_validation"))
CHANGE: dict[str, Any] = {"datasets": {"micro_test": {"seed": 1}}}


def left_behind(checkout: Checkout) -> None:
    """Make a result, and forget what Snakemake noted when its job had ended."""
    assert checkout.snakemake(FIRST).returncode == 0
    forget_notes(checkout)


def forget_notes(checkout: Checkout) -> None:
    """Forget what Snakemake noted of results."""
    for note in (checkout.folder / ".snakemake/metadata").rglob("*"):
        if note.is_file():
            note.unlink()


def test_a_result_of_an_orphan_is_taken_over_and_followed_from_then_on(checkout: Checkout) -> None:
    left_behind(checkout)
    before = (checkout.folder / FIRST).stat().st_mtime_ns
    done = checkout.snakemake(FIRST, OTHER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (checkout.folder / FIRST).stat().st_mtime_ns == before
    planned = checkout.snakemake("--dry-run", FIRST, OTHER, change=CHANGE)
    assert "params" in planned.stdout.lower(), planned.stdout[-2000:]
    assert "prepare_dataset" in planned.stdout


def test_a_result_of_an_orphan_that_was_made_with_other_settings_is_refused(checkout: Checkout) -> None:
    left_behind(checkout)
    done = checkout.snakemake(FIRST, OTHER, change=CHANGE)
    assert done.returncode != 0
    assert "other code or settings" in done.stderr
    assert "results/data/micro_test" in done.stderr
    assert not (checkout.folder / OTHER).exists()


def test_jobs_left_behind_may_have_finished_all_but_the_publishing(built: Checkout, tmp_path: Path) -> None:
    checkout = copy_of(built, tmp_path / "copy")
    forget_notes(checkout)
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
