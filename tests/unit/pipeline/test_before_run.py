"""Accounts of a cluster, from a `sacctmgr` that says what a test wants; the real one is asked in tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.errors import ConfigError
from rebend.pipeline.checks.before_run import check_accounts


def sacctmgr(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "sacctmgr"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_an_account_of_ones_own_is_taken_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sacctmgr(tmp_path, monkeypatch, "echo research; echo Teaching")
    check_accounts(["Research", "teaching, research"])


def test_another_is_refused_with_what_is_allowed_and_the_likely_typo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacctmgr(tmp_path, monkeypatch, "echo research; echo teaching")
    with pytest.raises(ConfigError, match=r"'reserch' .* \(research, teaching\)\. Did you mean 'research'\?"):
        check_accounts(["reserch"])


@pytest.mark.parametrize("script", ["exit 1", "true"])
def test_where_no_accounts_are_kept_any_name_passes(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacctmgr(tmp_path, monkeypatch, script)
    check_accounts(["anything"])


def test_without_slurm_or_without_a_name_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_accounts(["anything"])
    check_accounts([])
