"""Folders of an earlier version are named in one line and not changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.pipeline.checks.old_results import OLD_FOLDERS, old_results_notice
from rebend.pipeline.graph import paths


@pytest.mark.parametrize("folder", OLD_FOLDERS)
def test_old_folder_is_named_and_kept(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    notice = old_results_notice(tmp_path)
    assert notice is not None and "\n" not in notice
    assert str(tmp_path / folder) in notice and "may be deleted" in notice
    assert (tmp_path / folder).is_dir()


def test_current_folders_are_not_named(tmp_path: Path) -> None:
    for folder in ("adapters", "value_models", "projections", "safety_verdicts", "win_rate_verdicts", "models"):
        (tmp_path / folder).mkdir()
    assert old_results_notice(tmp_path) is None
    assert old_results_notice(tmp_path / "absent") is None


def test_no_current_path_is_in_an_old_folder() -> None:
    text = Path(paths.__file__).read_text(encoding="utf-8")
    assert not [folder for folder in OLD_FOLDERS if f"results/{folder}/" in text]
