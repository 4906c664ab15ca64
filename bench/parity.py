"""Both released codebases beside rebend on the same tiny models, batches and texts; writes `docs/parity.md`.

    python bench/parity.py --recontrol FOLDER --repbend FOLDER          # clones, or git directories without work tree
    python bench/parity.py --recontrol FOLDER --repbend FOLDER --only Value --out /tmp/parity.md

The folders are clones of https://github.com/Lingkai-Kong/RE-Control and https://github.com/AIM-Intelligence/RepBend.
Their code is read where it is, and pieces of it are run; nothing of it is copied. A folder that is not given skips its
items. It takes about a minute on one core.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
import transformers
from parity_code import REPAIRS, Released
from parity_item import DIFFERS, EQUAL, FAILED, FEW, ITEMS, SKIPPED, Line, Sides, measure

# Each module adds its items, in the order of the page.
for module in ("texts", "value", "scores", "judges", "repbend", "training_data", "npo", "baselines", "attacks"):
    importlib.import_module(f"parity_{module}")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/parity.md"
SHARED = Path(os.environ.get("REBEND_SHARED") or ROOT.parent / "shared" / "data")
NAMES = {"recontrol": "RE-Control (arXiv:2406.05954)", "repbend": "RepBend (arXiv:2504.01550)"}
HEADER = ("item", "released", "ours", "difference", "tolerance", "verdict", "remark")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the items and write the page."""
    warnings.filterwarnings("ignore")  # of libraries, about names that will change
    asked = parsed(arguments)
    folders = {"recontrol": asked.recontrol, "repbend": asked.repbend}
    released = {paper: Released(folder) for paper, folder in folders.items() if folder is not None}
    lines = []
    for entry in ITEMS:
        if asked.only in entry.name:
            sides = Sides(released[entry.paper], asked.data) if entry.paper in released else None
            lines.append(measure(entry, sides, f"no folder: give --{entry.paper}"))
            print(f"{lines[-1].verdict:8} {lines[-1].difference:>22}  {entry.name}", flush=True)
    if not lines:
        sys.exit(f"--only {asked.only!r}: no item has this in its name")
    asked.out.write_text(page(lines, {paper: code.commit() for paper, code in released.items()}), encoding="utf-8")
    if any(line.verdict == FAILED for line in lines):
        sys.exit("some items failed: their errors are on the page")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for paper, name in NAMES.items():
        parser.add_argument(f"--{paper}", type=Path, help=f"folder with the released code of {name}")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with small real data (REBEND_SHARED)")
    parser.add_argument("--only", default="", help="only items with this text in their name")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page that is written")
    return parser.parse_args(arguments)


def page(lines: Sequence[Line], commits: dict[str, str]) -> str:
    """Return the page."""
    parts = [INTRODUCTION.format(few=FEW), run_facts(lines, commits)]
    for paper, name in NAMES.items():
        own = [line for line in lines if line.item.paper == paper]
        if own:
            parts.append(f"## {name}\n\n{table(own)}")
    parts.append("## Repairs and stand-ins\n\n" + "\n".join(f"- {sentence}" for sentence in REPAIRS))
    return "\n\n".join(parts).rstrip() + "\n"


def run_facts(lines: Sequence[Line], commits: dict[str, str]) -> str:
    """Return the paragraph about the run whose figures the page shows."""
    counts = {verdict: sum(line.verdict == verdict for line in lines) for verdict in (EQUAL, DIFFERS, SKIPPED, FAILED)}
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    of = ", ".join(f"{NAMES[paper].split(' (')[0]} at {commit}" for paper, commit in commits.items())
    return (
        f"This run: {date.today()}, {of or 'no released code'}; {versions}, CPU. {len(lines)} items: "
        f"{counts[EQUAL]} equal, {counts[DIFFERS]} differ, {counts[SKIPPED]} skipped, {counts[FAILED]} failed."
    )


def table(lines: Sequence[Line]) -> str:
    """Return a Markdown table."""
    rows = [HEADER, tuple("---" for _ in HEADER)]
    for line in lines:
        entry = line.item
        tolerance = f"{entry.tolerance:.0e}" if entry.tolerance else "0"
        remark = entry.remark if line.verdict == DIFFERS else ""
        rows.append((entry.name, line.released, line.ours, line.difference, tolerance, line.verdict, remark))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


INTRODUCTION = """# Both released codebases beside rebend

`bench/parity.py` runs pieces of the code that the papers' authors released and the same things of rebend on the same
tiny random models, batches and texts, and writes this page. The released code lies outside this repository, and
nothing of it is copied. Run it again with

    python bench/parity.py --recontrol FOLDER --repbend FOLDER

where the folders are clones of <https://github.com/Lingkai-Kong/RE-Control> and
<https://github.com/AIM-Intelligence/RepBend>. Without a folder its items are skipped.

**Difference**: of texts and token sequences, how many are not the same, byte for byte; of up to {few} numbers, the
largest difference relative to each number; of more, the largest difference relative to the largest number of the
released side (a gradient or a set of states is shown by its Euclidean length). Loss, states and value networks are in
float64, except for the norms of Llama, which round to float32; tokens under control and rewards are in float32. Unless
an item says otherwise, ours is the variant `released_code`, with the blocks of `config/studies/paper_recontrol.yaml`
and `config/studies/paper_repbend.yaml`. An item that differs says so with what was measured; the remark says why."""


if __name__ == "__main__":
    main()
