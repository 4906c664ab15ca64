"""Load, check and plan the study while Snakemake parses; errors become Snakemake's, which prints no traceback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError

from rebend.errors import RebendError
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.plan import Plan


def planned_study(raw: Mapping[str, Any], studies: Path) -> Plan:
    """Return the plan of the study that `raw` names. Raises `WorkflowError` with every mistake."""
    try:
        return load_plan(raw, studies)
    except RebendError as error:
        raise WorkflowError(str(error)) from error
