"""The parity page lists every item of its script; the script measures, skips and takes code apart as it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module; its folder is on the path while it is imported."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import parity

        yield parity
    finally:
        sys.path.remove(str(ROOT / "bench"))


def rows() -> list[list[str]]:
    """The cells of the page's tables."""
    lines = (ROOT / "docs/parity.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] not in ("item", "---")]


def test_the_page_has_a_row_for_each_item_in_order(script: Any) -> None:
    names = [entry.name for paper in script.NAMES for entry in script.ITEMS if entry.paper == paper]
    assert len(names) > 80 and len(set(names)) == len(names)
    assert [row[0].replace("\\|", "|") for row in rows()] == names, "run bench/parity.py again"


def test_the_page_is_of_a_whole_run_with_both_repositories() -> None:
    assert {row[5] for row in rows()} <= {"equal", "differs"}


def test_each_row_that_differs_says_why() -> None:
    assert [row[0] for row in rows() if row[5] == "differs" and not row[6]] == []


def test_verdicts_follow_from_difference_and_tolerance() -> None:
    for name, _, _, difference, tolerance, verdict, _ in rows():
        texts = re.fullmatch(r"([\d,]+) of ([\d,]+)", difference)
        apart = float(texts[1].replace(",", "")) if texts else None if "and" in difference else float(difference)
        within = apart is not None and apart <= float(tolerance)
        assert verdict == ("equal" if within else "differs"), name


def measured(script: Any, released: Any, ours: Any, tolerance: float = 0.0) -> Any:
    """The line of an item that returns these two values."""
    entry = sys.modules["parity_item"].Item("recontrol", "x", lambda sides: (released, ours), tolerance, "")
    return script.measure(entry, script.Sides(None, ROOT))


def test_numbers_are_compared_with_the_tolerance(script: Any) -> None:
    assert measured(script, 2.0, 2.002, 1e-2).verdict == "equal"
    line = measured(script, 2.0, 2.2, 1e-2)
    assert (line.verdict, line.difference, line.released, line.ours) == ("differs", "1.0e-01", "2", "2.2")
    assert measured(script, [100.0, 0.01], [100.0, 0.02], 1e-2).verdict == "differs", "each of a few by itself"
    many = torch.full((20,), 100.0)
    assert measured(script, many, many + 0.01 * torch.arange(20) / 19, 1e-3).difference == "1.0e-04"
    assert measured(script, torch.ones(3), torch.ones(4), 9.0).verdict == "differs"


def test_texts_are_compared_one_by_one(script: Any) -> None:
    line = measured(script, ["a", "b", "c"], ["a", "x", "c"])
    assert (line.verdict, line.difference, line.ours) == ("differs", "1 of 3", "2 of 3 the same")
    assert measured(script, [[1, 2], []], [[1, 2], []]).verdict == "equal"
    assert measured(script, ["a", "b"], ["a"]).difference == "1 of 2"


def test_an_item_without_its_repository_or_with_an_error_leaves_the_others(script: Any) -> None:
    assert script.measure(script.ITEMS[0], None, "no folder").verdict == "skipped"

    def broken(sides: Any) -> Any:
        raise ValueError("no such\nname")

    line = script.measure(sys.modules["parity_item"].Item("recontrol", "x", broken, 0.0, ""), object())
    assert (line.verdict, line.difference) == ("failed", "ValueError: no such name")


def test_a_run_without_repositories_writes_a_page_that_says_so(script: Any, tmp_path: Path) -> None:
    script.main(["--out", str(tmp_path / "page.md"), "--only", "Value loss"])
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "5 items: 0 equal, 0 differ, 5 skipped, 0 failed" in text and "give --recontrol" in text


def test_pieces_are_taken_from_files_that_cannot_be_imported(script: Any, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import no_such_package\nLIMIT = 3\n\ndef main():\n    def inner(x: Missing):\n        return x * scale\n\n"
        "    if True:\n        y = 2\n        z = y + 1\n    raise SystemExit\n\nmain()\n"
    )
    released = script.Released(tmp_path)
    assert released.take("job.py", ["LIMIT", "inner"], {"scale": 5}).inner(4) == 20
    assert released.run("job.py", "y = 2", "z = y", {})["z"] == 3
    assert "z" not in released.run("job.py", "y = 2", "z = y", {}, whole=False)
    repaired = released.take("job.py", ["inner"], {"scale": 5}, {"x * scale": ("x + scale", "a sum for a product")})
    assert repaired.inner(4) == 9 and "`job.py`: a sum for a product" in script.REPAIRS
    with pytest.raises(ValueError, match="another version"):
        released.take("job.py", ["inner"], {}, {"x / scale": ("", "")})
    with pytest.raises(ValueError, match="does not define outer"):
        released.take("job.py", ["outer"], {})
