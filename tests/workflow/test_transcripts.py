"""The keys of example transcripts: they run the stages of tables again, and no other stage."""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

from rebend.io.files import read_parquet
from tests.workflow.checkout import MICRO, Checkout
from tests.workflow.jobs import copy_of


def test_transcripts_run_only_the_stages_of_tables(built: Checkout, tmp_path: Path) -> None:
    checkout = copy_of(built, tmp_path / "copy")
    assert not (checkout.folder / "results/tables/transcripts.md").exists()
    study = checkout.folder / MICRO / "study.yaml"
    keys = yaml.safe_load(study.read_text(encoding="utf-8")) | {"transcripts": 2, "harmless_prompts": ["micro_test"]}
    study.unlink()  # a hard link to the file of the other tests
    study.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    assert checkout.would_run() == {"make_tables", "make_figures", "make_report", "publish"}
    done = checkout.snakemake()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]

    tables = checkout.folder / "results/tables"
    with (tables / "transcripts.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    marks = read_parquet(checkout.folder / "results/data/micro_safety.parquet").to_pylist()
    harmless = {row["row_id"] for row in marks if row["harmful"] is False}
    asked = [row for row in rows if row["dataset"] == "micro_safety"]
    assert len({row["row_id"] for row in asked}) == 2 and {row["row_id"] for row in asked} <= harmless
    assert {row["control"] for row in rows if row["dataset"] == "micro_test"} == {
        "none", "micro_prompting", "micro_random", "micro_climb", "micro_static", "micro_search", "micro_prefix",
        "micro_best", "micro_both",
    }  # fmt: skip
    page = (tables / "transcripts.md").read_text(encoding="utf-8")
    report = (checkout.folder / "results/report.html").read_text(encoding="utf-8")
    assert "## micro" in page and '<section id="transcripts">' in report
    harmful = [row["messages"][-1]["content"] for row in marks if row["harmful"] is not False]
    assert harmful and not any(prompt in text for prompt in harmful for text in (page, report))
