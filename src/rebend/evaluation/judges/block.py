"""The settings of a judge inside its job, from the rule's settings and its resources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rebend.config.base import Method
from rebend.config.judges import REQUEST_OPTIONS


def judge_block(settings: Mapping[str, Any], resources: Mapping[str, Any], registry: Mapping[str, Method]) -> Any:
    """Return the block of the judge with the method in `settings`.

    Concurrency, retries and the limits (see `rebend.config.judges.limits_of`) come from the job's resources.
    """
    kind = registry[settings["method"]].block
    machine = {name: resources.get(name) for name in REQUEST_OPTIONS if name in kind.model_fields}
    known = {name: value for name, value in machine.items() if value is not None}
    return kind.model_validate({**settings, **known, **json.loads(resources.get("limits", "{}"))})
