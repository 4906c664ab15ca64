"""Run a module as one rank of a job: `python -m rebend.pipeline.jobs.rank MODULE ARGUMENTS...`.

A rank is a separate process and imports the library again, perhaps after an edit. It stops if the library's files
differ from those of the job that launched it. The module needs a function `main(check)` that calls `check` after its
imports.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial

from rebend.pipeline.jobs.planned_version import check_same_sources


def main() -> None:
    """Run the module. Raises `ChangedError` if the library's files have changed since the job started."""
    sys.argv = sys.argv[1:]
    importlib.import_module(sys.argv[0]).main(partial(check_same_sources, "train_adapter"))


if __name__ == "__main__":
    main()
