"""The prompts whose answers are sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.errors import DataError
from rebend.evaluation.sampled_pairs.prompts import Near, prompt_rows, usable_prompts
from rebend.io.files import write_parquet
from rebend.io.prompts import prompts_in
from rebend.io.schemas import EMBEDDINGS, EVALUATION, PROMPTS


def row(name: str, text: str, harmful: bool = True) -> dict[str, Any]:
    return {"row_id": name, "messages": [{"role": "user", "content": text}], "harmful": harmful}


def embedded(**vectors: list[float]) -> pa.Table:
    return pa.table({"row_id": list(vectors), "embedding": list(vectors.values())}).cast(EMBEDDINGS)


def test_each_harmful_prompt_is_asked_once_and_others_are_counted() -> None:
    rows = [row("a", "zor it"), row("b", "ZOR  it"), row("c", "vak it", False), row("d", "bim it"), row("e", "lo it")]
    test = dict.fromkeys(prompts_in([{"role": "user", "content": "Bim it"}]), "")
    kept, left_out = usable_prompts(rows, {"test": test}, None)
    assert [row["row_id"] for row in kept] == ["a", "e"]
    assert left_out == {"repeated prompt": 1, "harmless prompt": 1, "prompt of 'test'": 1}


def test_harmless_prompts_are_asked_instead_of_harmful_ones() -> None:
    rows = [row("a", "zor it"), row("b", "vak it", False), row("c", "bim it", False), row("d", "vak it", False)]
    test = dict.fromkeys(prompts_in([{"role": "user", "content": "Bim it"}]), "")
    kept, left_out = usable_prompts(rows, {"test": test}, None, harmful=False)
    assert [row["row_id"] for row in kept] == ["b"]
    assert left_out == {"harmful prompt": 1, "repeated prompt": 1, "prompt of 'test'": 1}


def test_rows_of_kind_prompts_are_harmless_ones_that_judges_can_read(tmp_path: Path) -> None:
    plain = {"row_id": "a", "messages": row("a", "zor it")["messages"], "reference": "So.", "group": "g"}
    marked = {**row("b", "vak it"), "request": "vak", "target": "Sure", "reference": None, "group": "", "category": "c"}
    write_parquet(tmp_path / "plain", pa.Table.from_pylist([{**plain, "cluster": None}], PROMPTS))
    write_parquet(tmp_path / "marked", pa.Table.from_pylist([{**marked, "cluster": None}], EVALUATION))
    (first,), (second,) = (prompt_rows(tmp_path / name) for name in ("plain", "marked"))
    assert first == {**plain, "cluster": None, "request": None, "target": "", "harmful": False, "category": ""}
    assert second == {**marked, "cluster": None}


def test_prompts_above_the_cosine_are_left_out_under_the_name_of_the_nearest_data_set() -> None:
    # Cosines with (1, 0): a 0.6, b 0.8, c 1 / sqrt(2); with (0, 2): a 0.8, b 0.6, c the same; d is opposite to both.
    own = [embedded(a=[3.0, 4.0], b=[8.0, 6.0]), embedded(c=[1.0, 1.0], d=[-1.0, -1.0])]
    others = {"first": embedded(x=[2.0, 0.0], y=[1.0, 0.0]), "second": embedded(z=[0.0, 2.0])}
    rows = [row(name, name) for name in "abcd"]
    for cosine, kept in [(0.81, "abcd"), (0.79, "cd"), (0.70, "d")]:
        result, left_out = usable_prompts(rows, {}, Near(own, others, cosine))
        assert "".join(row["row_id"] for row in result) == kept
        if kept == "cd":
            assert left_out == {"near a prompt of 'second'": 1, "near a prompt of 'first'": 1}


def test_comparison_with_no_prompts_is_an_error() -> None:
    with pytest.raises(DataError, match="without prompts"):
        usable_prompts([row("a", "a")], {}, Near([embedded(a=[1.0])], {"empty": embedded()}, 0.8))
