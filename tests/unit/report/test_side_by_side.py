"""Printed numbers beside measured ones."""

from __future__ import annotations

from typing import Any

from rebend.report.side_by_side import beside_paper


def test_beside_paper_shows_each_different_number_once() -> None:
    right: dict[str, Any] = {"printed_asr": 0.1, "paper_asr": 0.2, "paper_asr_recomputed": 0.2}
    assert beside_paper("1.0", right, "asr") == "1.0 (paper 20.00, same benchmarks 10.00)"
    assert beside_paper("1.0", {**right, "printed_asr": 0.2}, "asr") == "1.0 (paper 20.00)"
    assert beside_paper("1.0", {"printed_asr": 0.1}, "asr") == "1.0 (paper 10.00)"
    assert beside_paper("1.0", {"printed_asr": None}, "asr") == "1.0"
    wrong: dict[str, Any] = {"paper_asr": 0.5563, "paper_asr_recomputed": 0.57603, "paper_asr_wrong": True}
    assert beside_paper("", wrong, "asr") == "(paper 55.63, recomputed 57.60)"
