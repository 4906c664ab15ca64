"""Settings and rows of judges that are classifiers."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa

from rebend.config.safety import HarmBenchJudgeBlock, WildGuardJudgeBlock
from tests.helpers.safety_rows import row
from tests.helpers.small_judge import reply_text, request


def harmbench(**changes: Any) -> HarmBenchJudgeBlock:
    return HarmBenchJudgeBlock(**{"method": "harmbench", "local": "x", "batch_size": 4, **changes})


def wildguard(**changes: Any) -> WildGuardJudgeBlock:
    return WildGuardJudgeBlock(**{"method": "wildguard", "local": "x", "batch_size": 4, **changes})


def rows(*, thing: str = "dax", harmful: bool = True) -> list[dict[str, Any]]:
    """Return thirty rows with replies outside the training data, ten of each kind."""
    draw = random.Random(77)
    texts = [reply_text(draw, kind) for kind in ["plain", "zorp", "sorry"] * 10]
    return [row(t, row_id=f"r{i:02d}", prompt=request(thing), harmful=harmful) for i, t in enumerate(texts)]


def words(table: pa.Table) -> list[str | None]:
    return table["verdict"].to_pylist()
