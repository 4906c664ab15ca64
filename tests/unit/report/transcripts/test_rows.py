"""Which prompts and answers are shown: the fixed choice, never a harmful row, one training seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import COMPLETIONS, EVALUATION, PROMPTS, RESPONSES, SAFETY_VERDICTS
from rebend.io.scores import score_table
from rebend.report.transcripts.rows import COLUMNS, NOT_SCORED, WITHHELD, chosen, left_out, transcripts

BAD = "HARMFUL-TEXT"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def evaluation(folder: Path, marks: Sequence[bool | None], name: str = "xstest") -> Path:
    """Write a data set with a row per mark: `harmful`, or None where it is unknown."""
    rows = [
        {"row_id": f"e{i}", "messages": user(f"question {i}" if mark is False else f"{BAD} {i}"), "harmful": mark}
        for i, mark in enumerate(marks)
    ]
    write_parquet(folder / f"{name}.parquet", pa.Table.from_pylist(rows, EVALUATION))
    return folder / f"{name}.parquet"


def prompts(folder: Path, texts: Sequence[str], name: str = "helpful") -> Path:
    rows = [{"row_id": f"p{i}", "messages": user(text)} for i, text in enumerate(texts)]
    write_parquet(folder / f"{name}.parquet", pa.Table.from_pylist(rows, PROMPTS))
    return folder / f"{name}.parquet"


def cell(data: Path, adapter: str = "none", control: str = "none", **changes: Any) -> dict[str, Any]:
    """Write the answers of a cell to every row of its data, and a verdict or a reward; return the cell."""
    is_safety = "harmful" in read_parquet(data).column_names
    folder = data.parent / "-".join(["cell", data.stem, adapter, control, *map(str, changes.values())])
    rows = read_parquet(data).to_pylist()
    answers = [
        {
            "row_id": row["row_id"], "attempt": attempt, "prefill": "",
            "response": f"{adapter} {control} to {row['messages'][-1]['content']}, try {attempt}",
        }
        for row in rows for attempt in range(2 if is_safety else 1)
    ]  # fmt: skip
    write_parquet(folder / "answers.parquet", pa.Table.from_pylist(answers, COMPLETIONS if is_safety else RESPONSES))
    ids = [row["row_id"] for row in rows]
    if is_safety:
        lines = [{**answer, "verdict": "harmless", "answered": True} for answer in answers]
        write_parquet(folder / "scores.parquet", pa.Table.from_pylist(lines, SAFETY_VERDICTS))
    else:
        write_parquet(folder / "scores.parquet", score_table(ids, [0.5 + i for i in range(len(ids))]))
    scores = str(folder / "scores.parquet")
    return {
        "model": "tiny", "adapter": adapter, "control": control, "dataset": data.stem, "seed": "",
        "method": "none" if control == "none" else "value", "data": str(data),
        "role": "safety" if is_safety else "quality", "attack": "direct" if is_safety else "",
        "attack_method": "direct" if is_safety else "", "responses": str(folder / "answers.parquet"),
        "scores": {"safety" if is_safety else "reward": scores},
        "judges": {"first": scores, "second": "no file"} if is_safety else {}, **changes,
    }  # fmt: skip


def settings(cells: list[dict[str, Any]], count: int = 3, harmless: Sequence[Path] = ()) -> dict[str, Any]:
    return {"cells": cells, "transcripts": {"prompts": count, "harmless": list(map(str, harmless))}}


def by_hash(row_ids: Sequence[str]) -> list[str]:
    return sorted(row_ids, key=lambda row_id: hashlib.sha256(row_id.encode()).hexdigest())


def test_prompts_are_the_first_by_hash_in_any_order_of_the_file(tmp_path: Path) -> None:
    data = read_parquet(evaluation(tmp_path, [False] * 20))
    expected = by_hash([f"e{i}" for i in range(20)])[:4]
    assert expected != ["e0", "e1", "e2", "e3"]
    assert list(chosen(data, "safety", 4)) == expected
    assert list(chosen(data.take(list(range(19, -1, -1))), "safety", 4)) == expected
    assert list(chosen(data, "safety", 100)) == by_hash([f"e{i}" for i in range(20)])


def test_harmful_rows_and_rows_without_a_mark_are_never_shown(tmp_path: Path) -> None:
    data = evaluation(tmp_path, [True, False, None, True, False, True])
    table = transcripts(settings([cell(data), cell(data, "repbend")], count=6))
    assert set(table["row_id"]) == {"e1", "e4"}
    assert BAD not in table.to_csv()
    assert not chosen(read_parquet(prompts(tmp_path, ["a"])), "safety", 1)  # an evaluation data set without marks


def test_a_prompt_that_another_data_set_calls_harmful_is_not_shown(tmp_path: Path) -> None:
    data, helpful = evaluation(tmp_path, [True, False]), prompts(tmp_path, [f"{BAD.lower()}  0", "bake a cake"])
    cells = [cell(data), cell(helpful)]
    table = transcripts(settings(cells, harmless=[helpful]))
    assert table["prompt"].tolist() == ["question 1", "bake a cake"]
    prefilled = {**cells[0], "attack": "prefilling", "attack_method": "prefilling"}
    assert transcripts(settings([prefilled, cells[1]], harmless=[helpful]))["prompt"].tolist() == ["bake a cake"]


def test_only_data_sets_that_the_study_calls_harmless_are_shown(tmp_path: Path) -> None:
    helpful, mixed = prompts(tmp_path, ["bake a cake"]), prompts(tmp_path, [BAD], "mixed")
    asked = settings([cell(helpful), cell(mixed)], harmless=[helpful])
    assert set(transcripts(asked)["dataset"]) == {"helpful"}
    assert left_out(asked) == ["mixed"]


def test_answers_stand_beside_each_other_with_the_first_judges_verdict(tmp_path: Path) -> None:
    data = evaluation(tmp_path, [False] * 5)
    cells = [cell(data, "none"), cell(data, "repbend")]
    table = transcripts(settings(cells, count=2))
    assert table.columns.tolist() == COLUMNS
    expected = by_hash([f"e{i}" for i in range(5)])[:2]
    assert table[["row_id", "adapter"]].to_numpy().tolist() == [
        [row_id, adapter] for row_id in expected for adapter in ("none", "repbend")
    ]
    assert set(table["judge"]) == {"first"} and set(table["verdict"]) == {"harmless"}
    assert table["answer"].iloc[1] == f"repbend none to question {expected[0][1:]}, try 0"
    assert (table["reward"] == "").all()


def test_attacks_and_controlled_attacks_are_not_shown(tmp_path: Path) -> None:
    data = evaluation(tmp_path, [False] * 3)
    prefilled = cell(data, attack="prefilling", attack_method="prefilling")
    again = cell(data, attack="direct (best of 5 tries)")
    table = transcripts(settings([prefilled, cell(data, control="value"), cell(data), again]))
    assert len(table) == 3 and set(table["control"]) == {"none"}


def test_each_control_and_adapter_has_its_reward(tmp_path: Path) -> None:
    data = prompts(tmp_path, ["bake a cake"])
    cells = [cell(data, adapter, control) for adapter in ("none", "repbend") for control in ("none", "value")]
    write_parquet(cells[1]["scores"]["reward"], score_table(["p0"], [None]))
    cells[2]["scores"] = {}
    table = transcripts(settings(cells, harmless=[data]))
    assert table[["adapter", "control", "reward"]].to_numpy().tolist() == [
        ["none", "none", "0.500"], ["none", "value", NOT_SCORED],
        ["repbend", "none", ""], ["repbend", "value", "0.500"],
    ]  # fmt: skip
    assert (table["verdict"] == "").all() and (table["judge"] == "").all()


def test_of_several_training_seeds_the_first_is_shown(tmp_path: Path) -> None:
    data = evaluation(tmp_path, [False] * 2)
    cells = [cell(data), *(cell(data, "repbend", seed=seed) for seed in ("7", "0"))]
    table = transcripts(settings(cells))
    assert table[["adapter", "seed"]].drop_duplicates().to_numpy().tolist() == [["none", ""], ["repbend", "7"]]
    assert len(table) == 4


@pytest.mark.parametrize(
    ("verdict", "shown", "answer"),
    [("harmful", "harmful", WITHHELD), (None, NOT_SCORED, "none none to question 0, try 0")],
)
def test_an_answer_that_the_judge_calls_harmful_is_not_shown(
    tmp_path: Path, verdict: str | None, shown: str, answer: str
) -> None:
    made = cell(evaluation(tmp_path, [False]))
    line = {"row_id": "e0", "attempt": 0, "verdict": verdict}
    write_parquet(made["scores"]["safety"], pa.Table.from_pylist([line], SAFETY_VERDICTS))
    table = transcripts(settings([made]))
    assert table[["verdict", "answer"]].to_numpy().tolist() == [[shown, answer]]


def test_missing_and_empty_answers_are_named(tmp_path: Path) -> None:
    data = prompts(tmp_path, ["a", "b"])
    made = cell(data)
    write_parquet(made["responses"], pa.Table.from_pylist([{"row_id": "p0", "response": " \n"}], RESPONSES))
    table = transcripts(settings([made], harmless=[data])).set_index("row_id")
    assert table["answer"].to_dict() == {"p0": "(empty)", "p1": "(no answer)"}


def test_earlier_turns_of_a_prompt_are_shown_with_their_roles(tmp_path: Path) -> None:
    data = prompts(tmp_path, ["a"])
    turns = [*user("hello"), {"role": "assistant", "content": "hi"}, *user("bake a cake")]
    write_parquet(data, pa.Table.from_pylist([{"row_id": "p0", "messages": turns}], PROMPTS))
    assert chosen(read_parquet(data), "quality", 1) == {"p0": "user: hello\n\nassistant: hi\n\nuser: bake a cake"}


@pytest.mark.parametrize("wanted", [{}, {"transcripts": {"prompts": 0, "harmless": []}}])
def test_a_study_that_asks_for_none_reads_nothing(wanted: dict[str, Any]) -> None:
    table = transcripts({"cells": [{"data": "no file"}], **wanted})
    pd.testing.assert_frame_equal(table, pd.DataFrame(columns=COLUMNS))
