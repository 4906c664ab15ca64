"""The manual of keys and the editor's schema follow the settings classes."""

from __future__ import annotations

from pathlib import Path

from rebend.data.readers.registry import load_readers
from rebend.pipeline.manual import MANUAL, SCHEMA, manual, schema

ROOT = Path(__file__).parents[3]
HOW = "settings classes have changed: run `.venv/bin/python -m rebend.pipeline.manual`"


def test_manual_of_keys_matches_the_settings_classes() -> None:
    assert (ROOT / MANUAL).read_text() == manual(), HOW


def test_manual_lists_the_columns_of_each_reader_and_kind() -> None:
    columns = (ROOT / MANUAL).read_text().split("### Their columns")[1].split("## A study")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in columns.splitlines() if line.startswith("| `")]
    listed = {(name.strip("`"), kind): (needed, more) for name, kind, needed, more in rows}
    assert listed["table", "prompts"] == ("`prompt`", "`reference`, `group`, `cluster`")
    assert listed["table", "evaluation"][0] == "`prompt`, `harmful`"
    assert listed["harmbench", "second file"][0] == "`BehaviorID`, `target`"
    readers = {name: reader for name, reader in load_readers().items() if reader.generate is None}
    of_files = {(name, "second file") for name, reader in readers.items() if reader.reference}
    assert set(listed) == {(name, kind) for name, reader in readers.items() for kind in reader.columns} | of_files


def test_schema_for_editors_matches_the_settings_classes() -> None:
    assert (ROOT / SCHEMA).read_text() == schema(), HOW
