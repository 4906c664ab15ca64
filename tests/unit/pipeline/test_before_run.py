"""GGUF files before the first job; accounts of a cluster with a `sacctmgr` of the test (tests/slurm: a real one)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.errors import ConfigError
from rebend.pipeline.checks.before_run import check_accounts, gguf_mistakes


def sacctmgr(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "sacctmgr"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_accounts_of_the_user_pass_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sacctmgr(tmp_path, monkeypatch, "echo research; echo Teaching")
    check_accounts(["Research", "teaching, research"])


def test_unknown_account_is_refused_with_the_allowed_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sacctmgr(tmp_path, monkeypatch, "echo research; echo teaching")
    with pytest.raises(ConfigError, match=r"'reserch' .* \(research, teaching\)\. Did you mean 'research'\?"):
        check_accounts(["reserch"])


@pytest.mark.parametrize("script", ["exit 1", "true"])
def test_any_account_passes_without_accounting(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sacctmgr(tmp_path, monkeypatch, script)
    check_accounts(["anything"])


def test_any_account_passes_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_accounts(["anything"])


def test_sacctmgr_does_not_run_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sacctmgr(tmp_path, monkeypatch, f"touch {tmp_path}/ran")
    check_accounts([])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("content", "n_mistakes"), [(b"GGUF\3\0\0\0", 0), (b"not a model", 1), (b"", 1)])
def test_file_is_a_gguf_file_if_it_begins_like_one(tmp_path: Path, content: bytes, n_mistakes: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    mistakes = [f"models.m.gguf: {path} is no GGUF file (its first four bytes are not 'GGUF')"]
    assert list(gguf_mistakes("models.m.gguf", path)) == mistakes[:n_mistakes]
