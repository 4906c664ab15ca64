"""Perplexities and repetition in the tables, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import ATTEMPT_SCORES, CHAT
from rebend.io.scores import score_table
from rebend.report.html.findings import findings
from rebend.report.tables.all import shown
from tests.helpers.study_factory import evaluation_data, prompts_cell, prompts_data, safety_cell
from tests.helpers.study_tables import make_tables, one_row

BASE = [1.0, 2.0, 3.0, 2.0]  # mean negative log-likelihoods of four dialogues; the mean is 2


def answered(root: Path, control: str, nlls: list[float | None]) -> dict[str, Any]:
    """Return a cell of quality with perplexities and repetition of its first prompts."""
    cell = prompts_cell(root, prompts_data(root), "tiny", "none", control, 0.0)
    ids = [f"p{i}" for i in range(len(nlls))]
    folder = Path(cell["responses"]).parent
    write_parquet(folder / "perplexity.parquet", score_table(ids, nlls))
    write_parquet(folder / "repetition.parquet", score_table(ids, [0.25] * len(ids)))
    files = {name: str(folder / f"{name}.parquet") for name in ("perplexity", "repetition")}
    return {**cell, "scores": {**cell["scores"], **files}}


def attacked(root: Path, adapter: str, attack: str, shift: float) -> dict[str, Any]:
    """Return a cell of safety in which attempts 0 and 1 of a prompt have the scores 1 and 3, plus a shift.

    A third attempt is not scored. Benign prompts have 1 in place of 3.
    """
    cell = safety_cell(root, evaluation_data(root), "tiny", adapter, "none", 20, attack)
    rows = [row for row in read_parquet(cell["data"]).to_pylist() if row["harmful"] or attack == "direct"]
    lines = [
        {"row_id": row["row_id"], "attempt": attempt, "score": None if score is None else score + shift}
        for row in rows
        for attempt, score in enumerate((1.0, 3.0 if row["harmful"] else 1.0, None))
    ]
    path = Path(cell["responses"]).parent / "perplexity.parquet"
    write_parquet(path, pa.Table.from_pylist(lines, ATTEMPT_SCORES))
    return {**cell, "scores": {**cell["scores"], "attacked_perplexity": str(path)}}


def chats(root: Path, adapter: str, nlls: list[float | None], seed: str = "") -> dict[str, Any]:
    """Return the entry of a model on held-out chats."""
    data, path = root / "data/held_out.parquet", root / f"chats/{adapter}{seed}.parquet"
    ids = [f"d{i}" for i in range(len(nlls))]
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    write_parquet(data, pa.Table.from_pylist([{"row_id": row, "messages": turns} for row in ids], CHAT))
    write_parquet(path, score_table(ids, nlls))
    return {
        "model": "tiny", "adapter": adapter, "control": "none", "method": "none", "dataset": "held_out",
        "role": "chats", "attack": "", "seed": seed, "data": str(data), "scores": {"chat_perplexity": str(path)},
    }  # fmt: skip


def test_perplexity_is_exp_of_the_mean_over_answers(tmp_path: Path) -> None:
    cells = [answered(tmp_path, "none", [1.0, 3.0, None]), answered(tmp_path, "value", [2.0, 3.0, 1.0])]
    tables = make_tables(cells)
    line = one_row(tables["matrix"], control="none", metric="perplexity")
    assert line["estimate"] == pytest.approx(math.exp(2.0))
    assert (line["n"], line["not_scored"]) == (2, 1)
    assert (line["ci_low"], line["ci_high"]) == (pytest.approx(math.exp(1.0)), pytest.approx(math.exp(3.0)))
    assert one_row(tables["matrix"], control="none", metric="repetition")["estimate"] == 0.25
    ratio = one_row(tables["gains"], control="value", metric="perplexity_ratio")
    assert ratio["estimate"] == pytest.approx(math.exp(0.5))  # mean of 2 - 1 and 3 - 3
    assert (ratio["baseline"], ratio["value"]) == (pytest.approx(math.exp(2.0)), pytest.approx(math.exp(2.0)))
    assert "perplexity_gain" not in set(tables["gains"]["metric"])
    assert one_row(tables["recontrol"], control="none")["perplexity"] == pytest.approx(math.exp(2.0))
    for name in ("matrix", "recontrol"):
        assert {"perplexity", "repetition"} <= set(shown(name, tables[name]).columns)


def test_tables_without_perplexities_have_no_column_of_them(tables: dict[str, pd.DataFrame]) -> None:
    assert not any("perplexity" in name or "repetition" in name for name in tables["recontrol"].columns)
    assert not any("perplexity" in name for name in tables["matrix"]["metric"])


def test_perplexity_of_answers_to_attacks_is_the_mean_over_attempts_by_attack(tmp_path: Path) -> None:
    cells = [
        attacked(tmp_path, adapter, attack, shift)
        for adapter, shift in (("none", 0.0), ("repbend", 0.7))
        for attack in ("direct", "prefilling")
    ]
    tables = make_tables(cells)
    for adapter, shift in (("none", 0.0), ("repbend", 0.7)):
        for name, mean in (
            ("harmful_perplexity", 2.0), ("harmful_perplexity_prefilling", 2.0), ("benign_perplexity", 1.0)
        ):  # fmt: skip
            line = one_row(tables["matrix"], adapter=adapter, metric=name)
            assert line["estimate"] == pytest.approx(math.exp(mean + shift)) and line["n"] == 80
    ratios = tables["gains"][tables["gains"]["metric"] == "harmful_perplexity_ratio"]
    assert list(ratios["attack"]) == ["direct", "prefilling"]
    assert ratios["estimate"].tolist() == pytest.approx([math.exp(0.7)] * 2)
    assert "harmful perplexity, prefilling" in shown("matrix", tables["matrix"]).columns


def rates(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Return the findings on attack success rates."""
    return [sentence for sentence in findings(tables) if "attack success rate" in sentence]


def test_held_out_chats_are_compared_with_the_base_dialogue_by_dialogue(tmp_path: Path) -> None:
    adapted = [1.1, 2.1, None, 2.4]  # against 1, 2 and 2 of the base
    cells = [safety_cell(tmp_path, evaluation_data(tmp_path), "tiny", name, "none", 9) for name in ("none", "repbend")]
    tables = make_tables(cells, chats=[chats(tmp_path, "none", BASE), chats(tmp_path, "repbend", adapted)])
    line = one_row(tables["matrix"], adapter="none", metric="chat_perplexity")
    assert line["estimate"] == pytest.approx(math.exp(2.0)) and line["control"] == "none"
    ratio = one_row(tables["gains"], metric="chat_perplexity_ratio")
    assert ratio["estimate"] == pytest.approx(math.exp((0.1 + 0.1 + 0.4) / 3))
    assert (ratio["n"], ratio["not_scored"], ratio["adapter"], ratio["against"]) == (3, 1, "repbend", "none")
    assert math.exp(0.1) <= ratio["ci_low"] < ratio["estimate"] < ratio["ci_high"] <= math.exp(0.4) + 1e-9
    text = shown("gains", tables["gains"])
    assert "chat perplexity ratio, %" in set(text["metric"])
    assert rates(tables) == rates(make_tables(cells)) != []
    ends = [f"{100 * ratio[end]:.1f}" for end in ("estimate", "ci_low", "ci_high")]
    said = "tiny, perplexity on held-out chats relative to that without an adapter: repbend {} [{}, {}] %."
    assert said.format(*ends) in findings(tables)


def test_several_trainings_on_held_out_chats_are_one_row(tmp_path: Path) -> None:
    cells = [safety_cell(tmp_path, evaluation_data(tmp_path), "tiny", "none", "none", 9)]
    entries = [chats(tmp_path, "none", BASE)]
    entries += [
        chats(tmp_path, "repbend", [nll + shift for nll in BASE], seed) for seed, shift in (("0", 0.1), ("1", 0.3))
    ]
    tables = make_tables(cells, chats=entries)
    line = one_row(tables["matrix"], adapter="repbend", metric="chat_perplexity")
    assert line["estimate"] == pytest.approx(math.exp(2.2)) and (line["n"], line["seeds"]) == (8, 2)
    ratio = one_row(tables["gains"], metric="chat_perplexity_ratio")
    assert ratio["estimate"] == pytest.approx(math.exp(0.2)) and ratio["seeds"] == 2
