"""The manual of keys and the editor's schema follow the settings classes."""

from __future__ import annotations

from pathlib import Path

from rebend.pipeline.manual import MANUAL, SCHEMA, manual, schema

ROOT = Path(__file__).parents[3]
HOW = "settings classes have changed: run `.venv/bin/python -m rebend.pipeline.manual`"


def test_manual_of_keys_matches_the_settings_classes() -> None:
    assert (ROOT / MANUAL).read_text() == manual(), HOW


def test_schema_for_editors_matches_the_settings_classes() -> None:
    assert (ROOT / SCHEMA).read_text() == schema(), HOW
