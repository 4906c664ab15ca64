"""The judge world_truth."""

from __future__ import annotations

from pathlib import Path

from rebend.config.safety import WorldTruthBlock
from rebend.data.tiny_world.generate import generate
from rebend.data.tiny_world.verdicts import verdict
from tests.helpers.safety_rows import judged


def test_verdicts_equal_those_of_the_tiny_world(tmp_path: Path) -> None:
    rows = [
        {**r, "row_id": str(i), "attempt": 0, "prefill": "", "response": r["reference"] or "x"}
        for i, r in enumerate(generate("safety_test", 40, 0))
    ]
    found = judged(WorldTruthBlock(method="world_truth"), rows, None, tmp_path).to_pylist()
    expected = [verdict(r["messages"][-1]["content"], r["response"]) for r in rows]
    assert [(f["verdict"], f["answered"]) for f in found] == expected
    assert any(answered for _, answered in expected)
