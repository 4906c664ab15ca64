"""Run jobs also in a folder whose name has a space, an apostrophe or another sign that a shell interprets.

Snakemake writes the path of its Python interpreter unquoted into the shell commands of scripts and cluster jobs. In
such a folder the interpreter has its bare name there, and its folder comes first in the search path of all later
processes.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def quote_interpreter() -> None:
    """Replace `sys.executable` by its name if a shell would split or change its path; else do nothing."""
    path = sys.executable
    if shlex.quote(path) == path:
        return
    os.environ["PATH"] = os.pathsep.join([str(Path(path).parent), os.environ.get("PATH", os.defpath)])
    sys.executable = Path(path).name
