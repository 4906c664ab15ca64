"""Results that nobody noted: their job went on after its Snakemake had been killed."""

from __future__ import annotations

from typing import Any

from tests.workflow.checkout import Checkout

FIRST, OTHER = (f"results/data/{name}.parquet" for name in ("micro_test", "micro_validation"))
CHANGE: dict[str, Any] = {"datasets": {"micro_test": {"seed": 1}}}


def left_behind(checkout: Checkout) -> None:
    """Make a result, and forget what Snakemake noted when its job had ended."""
    assert checkout.snakemake(FIRST).returncode == 0
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
