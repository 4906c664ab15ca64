"""Find results of version 0.0, whose folders had other names."""

from __future__ import annotations

from pathlib import Path

OLD_FOLDERS = ("bends", "values", "states", "safety", "verdicts")


def old_results_notice(results: str | Path) -> str | None:
    """Return one line that names the folders of an earlier version in `results`; None if there are none."""
    folders = [str(Path(results) / name) for name in OLD_FOLDERS if (Path(results) / name).is_dir()]
    if not folders:
        return None
    return f"rebend: results of an earlier version are not read and may be deleted: {', '.join(folders)}"
